"""Per coordinate, the values nearest to the median: their mean, and whose they are.

In order of size these values are consecutive, so where they begin is all there is to find: the window of
``count`` ranks moves up by one as long as the value that would enter is nearer to the median than the one
that would leave.
"""

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import narrow_blocks
from lightning_agg.aggregators.ranks import kept_with_ties, values_of_ranks


def mean_of_nearest(gradients: Tensor, count: int, lower: bool = False) -> Tensor:
    """``(M, d)`` -> ``(d,)``: per coordinate, the mean of the ``count`` values nearest to the median.

    Of two values equally far away the smaller is nearer. For an even M the median is the middle of the two
    central values, or, with ``lower``, the lower one.
    """
    blocks = (_window(block, count, lower)[0] for (block,) in narrow_blocks(gradients))
    return torch.cat([window.mean(dim=0) for window in blocks]).to(gradients.dtype)


def shares_of_nearest(gradients: Tensor, count: int, lower: bool = False) -> Tensor:
    """``(M, d)`` -> ``(M,)``: the share of each row in :func:`mean_of_nearest`, averaged over the coordinates."""
    shares = torch.zeros(len(gradients), device=gradients.device)
    for (block,) in narrow_blocks(gradients):
        window, first = _window(block, count, lower)
        low, high = window.aminmax(dim=0)
        kept = kept_with_ties(block, low.to(block), high.to(block), first, first + count)
        shares += kept.sum(dim=1) / (count * gradients.shape[1])
    return shares


def _window(block: Tensor, count: int, lower: bool) -> tuple[Tensor, Tensor]:
    """The ``count`` values, ``(count, d)`` in no order, and the rank ``(d,)`` of the smallest of them."""
    size = len(block)
    values = values_of_ranks(block, 0, size)
    median = values[(size - 1) // 2]
    if not lower and size % 2 == 0:
        median = torch.lerp(median, values[size // 2], 0.5)
    enters = values[count:] - median < median - values[: size - count]
    window = values[:count]
    for entrants, better in zip(
        *(torch.split(part, count) for part in (values[count:], enters)), strict=True
    ):
        leavers = window[: len(better)]
        leavers.copy_(torch.where(better, entrants, leavers))
    return window, enters.sum(dim=0)
