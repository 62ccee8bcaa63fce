"""Per coordinate, the values nearest to a center: their mean, and whose they are.

In order of size these values are consecutive, so where they begin is all there is to find: the window of
``count`` ranks moves up by one as long as the value that would enter is nearer to the center than the one
that would leave.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import narrow_blocks
from lightning_agg.aggregators.ranks import Even, kept_with_ties, values_of_ranks
from lightning_agg.precision import wide_dtype

Center = Callable[[Tensor], Tensor]
"""Maps values in ascending order, ``(M, d)``, to a point between the smallest and the largest, ``(d,)``."""


def median(even: Even = "midpoint") -> Center:
    """The median as a center."""

    def center(values: Tensor) -> Tensor:
        low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
        return low if even == "lower" or len(values) % 2 else torch.lerp(low, high, 0.5)

    return center


def trimmed_mean(trimmed: int) -> Center:
    """The mean without so many values at each end as a center, in at least float32."""

    def center(values: Tensor) -> Tensor:
        kept = values[trimmed : len(values) - trimmed]
        return kept.mean(dim=0, dtype=wide_dtype(values))

    return center


def mean_of_nearest(gradients: Tensor, count: int, center: Center) -> Tensor:
    """``(M, d)`` -> ``(d,)``: per coordinate, the mean of the ``count`` values nearest to the center.

    Of two values equally far away the smaller is nearer.
    """
    blocks = (_window(block, count, center)[0] for (block,) in narrow_blocks(gradients))
    return torch.cat([window.mean(dim=0) for window in blocks]).to(gradients.dtype)


def shares_of_nearest(gradients: Tensor, count: int, center: Center) -> Tensor:
    """``(M, d)`` -> ``(M,)``: the share of each row in :func:`mean_of_nearest`, averaged over the coordinates."""
    shares = torch.zeros(len(gradients), device=gradients.device)
    for (block,) in narrow_blocks(gradients):
        window, first = _window(block, count, center)
        low, high = window.aminmax(dim=0)
        kept = kept_with_ties(block, low.to(block), high.to(block), first, first + count)
        shares += kept.sum(dim=1) / (count * gradients.shape[1])
    return shares


def _window(block: Tensor, count: int, center: Center) -> tuple[Tensor, Tensor]:
    """The ``count`` values, ``(count, d)`` in no order, and the rank ``(d,)`` of the smallest of them."""
    size = len(block)
    values = values_of_ranks(block, 0, size)
    point = center(values)
    enters = values[count:] - point < point - values[: size - count]
    window = values[:count]
    for entrants, better in zip(
        *(torch.split(part, count) for part in (values[count:], enters)), strict=True
    ):
        leavers = window[: len(better)]
        leavers.copy_(torch.where(better, entrants, leavers))
    return window, enters.sum(dim=0)
