"""Distances and combinations of rows, exact for close rows of large norm and free of overflow.

All distances come from differences, so that a large common part of the rows cancels before anything is rounded:
from differences of two rows, or of each to a row near both. Sums are taken in float64, or in float32 where the squares
fit. Working on blocks of columns, copied to one buffer, keeps the copies in the cache.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_agg.precision import wide_dtype

FEW = 16
"""Up to so many rows, sums and differences of rows cost less than a product of matrices."""

CANCELLED = 1e-6
"""A distance keeps nine of the sixteen digits as long as its square is this part of those of the two rows."""


def column_blocks(gradients: Tensor) -> tuple[Tensor, ...]:
    """Views of ``(M, d)`` of at most 2^14 columns each (2^20 on an accelerator, where launches cost)."""
    return torch.split(gradients, 2**14 if gradients.device.type == "cpu" else 2**20, dim=-1)


def narrow_blocks(gradients: Tensor, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of ``(M, d)`` and of ``(d,)`` vectors: the same columns of each, so few that a block stays in the cache."""
    width = _width(gradients)
    if gradients.shape[-1] <= width:
        return iter([(gradients, *vectors)])
    return zip(*(torch.split(tensor, width, dim=-1) for tensor in (gradients, *vectors)), strict=True)


def contiguous_blocks(
    dtype: torch.dtype, gradients: Tensor, *vectors: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """The :func:`narrow_blocks`, the first contiguous and of the dtype: only to read, until the next is asked for."""
    if gradients.shape[1] <= _width(gradients):
        yield gradients.to(dtype).contiguous(), *vectors
        return
    scratch = _scratch(gradients, dtype)
    for block, *parts in narrow_blocks(gradients, *vectors):
        yield scratch[: block.numel()].view(block.shape).copy_(block), *parts


def differences(gradients: Tensor, point: Tensor) -> Iterator[Tensor]:
    """Blocks of ``gradients - point`` in the dtype of ``point``, the wider, each valid until the next is asked for."""
    if gradients.shape[1] <= _width(gradients):
        yield gradients - point
        return
    scratch = _scratch(gradients, point.dtype)
    for block, part in narrow_blocks(gradients, point):
        yield torch.sub(block, part, out=scratch[: block.numel()].view(block.shape))


def _scratch(gradients: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for any of the :func:`narrow_blocks`."""
    return gradients.new_empty(len(gradients) * min(_width(gradients), gradients.shape[1]), dtype=dtype)


def _width(gradients: Tensor) -> int:
    return 2**20 if gradients.device.type != "cpu" else min(max(2**18 // len(gradients), 2**11), 2**14)


def squared_distances(gradients: Tensor, exact: bool = False) -> Tensor:
    """``(M, d)`` -> symmetric float64 ``(M, M)`` with a zero diagonal.

    Of up to :data:`FEW` rows each to the precision of float64 where ``exact``, else at least to that of the rows; of more
    rows each to nine digits, whatever the dtype.
    """
    if len(gradients) <= FEW:
        lengths = _pairs_by_differences(gradients, torch.float64 if exact else wide_dtype(gradients))
        if not _squares_fit(lengths):
            lengths = _pairs_by_differences(gradients, torch.float64)
        return (
            torch.cat([lengths, lengths.new_zeros(1)]).square_().take(_places(len(gradients), lengths.device))
        )
    distances = torch.full((len(gradients),) * 2, torch.inf, dtype=torch.float64, device=gradients.device)
    unknown = ~torch.eye(len(gradients), dtype=torch.bool, device=gradients.device)
    while bool(unknown.any()):
        center = int(unknown.sum(dim=1).argmax())
        rows = unknown[center].clone()
        rows[center] = True
        at = rows.nonzero()[:, 0]
        all_rows = len(at) == len(gradients)
        products = products_about(gradients if all_rows else gradients[at], gradients[center])
        squares = products.diagonal()
        scale = squares + squares[:, None]
        found = torch.sub(scale, products, alpha=2)
        place = int(rows[:center].sum())
        found[place] = found[:, place] = squares
        # Rows much closer to each other than to the center have lost digits: they get one of their own.
        grid = (slice(None), slice(None)) if all_rows else (at[:, None], at)
        known = (found >= scale.mul_(CANCELLED)) & unknown[grid]
        distances[grid] = torch.where(known, found, distances[grid])
        unknown[grid] &= ~known
    return distances.fill_diagonal_(0)


def products_about(gradients: Tensor, point: Tensor) -> Tensor:
    """Inner products of the rows of ``(M, d)`` relative to ``(d,)`` -> symmetric float64 ``(M, M)``."""
    size = len(gradients)
    products = torch.zeros(size, size, dtype=torch.float64, device=gradients.device)
    for rows in differences(gradients, point.double()):
        products.add_(_products(rows))
    return products


def _products(rows: Tensor) -> Tensor:
    """Inner products of ``rows``."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    array = rows.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        products = array @ array.T  # NumPy sees that half of them suffice, torch does not
    return torch.from_numpy(products)


def _pairs_by_differences(gradients: Tensor, dtype: torch.dtype) -> Tensor:
    """Distances of all pairs of rows, float64, in the order of ``pdist``: from their differences, taken in ``dtype``."""
    return _length([torch.nn.functional.pdist(rows) for (rows,) in contiguous_blocks(dtype, gradients)])


@lru_cache(maxsize=FEW)
def _places(size: int, device: torch.device) -> Tensor:
    """``(size, size)``: where ``pdist`` has the distance of each pair of rows, and behind it a zero for the diagonal."""
    places = torch.full((size, size), size * (size - 1) // 2, device=device)
    i, j = torch.triu_indices(size, size, offset=1, device=device)
    places[i, j] = places[j, i] = torch.arange(len(i), device=device)
    return places


def distances_to(gradients: Tensor, point: Tensor) -> Tensor:
    """Distance of each row of ``(M, d)`` to ``(d,)`` -> float64 ``(M,)``, to the precision of the rows."""
    for dtype in (wide_dtype(gradients), torch.float64):
        wide = point if point.dtype == dtype else point.to(dtype)
        distances = _length([torch.linalg.vector_norm(part, dim=1) for part in differences(gradients, wide)])
        if _squares_fit(distances):
            break
    return distances


def row_lengths(gradients: Tensor) -> Tensor:
    """``(M, d)`` -> float64 ``(M,)``: the length of each row, to the precision of the rows."""
    wide = wide_dtype(gradients)
    found = _length(
        [torch.linalg.vector_norm(rows, dim=1, dtype=wide) for (rows,) in narrow_blocks(gradients)]
    )
    return found if _squares_fit(found) else norms(gradients)


def norms(gradients: Tensor) -> Tensor:
    """``(M, d)`` -> float64 ``(M,)``: the length of each row, to the precision of float64."""
    blocks = narrow_blocks(gradients)
    return _length([torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for (rows,) in blocks])


def _length(parts: list[Tensor]) -> Tensor:
    """Lengths of the parts of vectors -> float64 lengths of the vectors."""
    if len(parts) == 1:
        return parts[0].double()
    length: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0, dtype=torch.float64)
    return length


def _squares_fit(lengths: Tensor) -> bool:
    """Whether float32 holds the squares that count beside the longest of these lengths."""
    return lengths.numel() > 0 and 1e-10 < lengths.max().item() < 1e18


def combine(weights: Tensor, gradients: Tensor) -> Tensor:
    """``(M,)`` or ``(K, M)`` weights and ``(M, d)`` rows -> ``(d,)`` or ``(K, d)`` in the rows' dtype.

    Summed in at least float32.
    """
    wide = wide_dtype(gradients)
    if weights.dtype != wide or weights.device != gradients.device:
        weights = weights.to(gradients.device, wide)
    if gradients.dtype == wide:
        return weights @ gradients
    return (weights @ gradients.to(wide)).to(gradients.dtype)
