"""What attacks measure of the honest rows: deviations, inner products, how far a line may go."""

from typing import Literal

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import column_blocks
from lightning_agg.precision import widened

Perturbation = Literal["std", "unit", "sign"]

SMALL = 2.0**-50
"""Where no deviation is larger, the squares of those a thousand times smaller begin to lose digits in float32."""


def wide_mean(rows: Tensor) -> Tensor:
    """Mean over workers ``(d,)``, in at least float32."""
    return widened(rows).mean(dim=0)


def deviation(rows: Tensor, mean: Tensor, ddof: int = 0) -> Tensor:
    """Standard deviation over workers ``(d,)``; 0 for a single row."""
    if len(rows) == 1:
        return torch.zeros_like(mean)
    # rows.std(dim=0) is fifteen times slower.
    found = ((rows - mean).square_().sum(dim=0) / (len(rows) - ddof)).sqrt_()
    if found.dtype == torch.float64 or SMALL < float(found.max()) < torch.inf:
        return found
    # Squares overflow and vanish long before the rows do.
    return deviation(rows.double(), mean.double(), ddof).to(mean.dtype)


def perturbation(kind: Perturbation, rows: Tensor, mean: Tensor) -> Tensor:
    """The direction ``(d,)`` in which an attack leaves the honest mean (Shejwalkar and Houmansadr, Section IV).

    Of any length: the factor makes up for it.
    """
    if kind == "std":
        return -deviation(rows, mean)
    if kind == "sign":
        return -torch.sign(mean)
    return -mean


def inner_products(rows: Tensor, center: Tensor, *others: Tensor) -> Tensor:
    """Float64 inner products of ``rows - center`` and the ``others``, ``(H + k, H + k)``."""
    size = len(rows) + len(others)
    products = torch.zeros(size, size, dtype=torch.float64, device=rows.device)
    for block, c, *more in zip(*map(column_blocks, (rows, center, *others)), strict=True):
        vectors = torch.cat([block.double() - c.double(), *(vector.double()[None] for vector in more)])
        products += vectors @ vectors.T
    return products


def last_root(square: Tensor, along: Tensor, room: Tensor) -> Tensor:
    r"""The largest :math:`\gamma` with ``square`` :math:`\gamma^2 - 2` ``along`` :math:`\gamma \le` ``room``, for each ``room`` >= 0."""
    room = room.clamp(min=0)
    root = (along.square() + square * room).sqrt()
    # The second form where the first would cancel.
    return torch.where(along >= 0, (along + root) / square, room / (root - along))
