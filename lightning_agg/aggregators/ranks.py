"""Order statistics of every coordinate: the values of given ranks, their mean, and whose they are.

The rows are sorted by a network of element-wise minima and maxima (Batcher's merge exchange), pruned to
the ranks that are asked for, on blocks of columns that stay in the cache. For the tens of rows of a pool
this is several times faster than a sort of each column, on CPU and GPU, and needs no memory beyond a block.
For more rows on a CPU each column is sorted by NumPy, which does it in vector registers; torch does not.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import narrow_blocks
from lightning_agg.precision import wide_dtype

Even = Literal["midpoint", "lower"]
"""The median of an even number of values: the middle of the two central ones, or the lower one."""

NETWORK = 40
"""Up to so many rows a network takes less time than NumPy's sort, with the transposition that this needs."""


def mean_of_ranks(gradients: Tensor, first: int, last: int) -> Tensor:
    """``(M, d)`` -> ``(d,)``: per coordinate, the mean of the values of ranks ``first`` to ``last - 1``."""
    return torch.cat(
        [values_of_ranks(block, first, last).mean(dim=0) for (block,) in narrow_blocks(gradients)]
    ).to(gradients.dtype)


def shares_of_ranks(gradients: Tensor, first: int, last: int) -> Tensor:
    """``(M, d)`` -> ``(M,)``: the share of each row in :func:`mean_of_ranks`, averaged over the coordinates.

    Rows of equal value share the ranks that they occupy together.
    """
    shares = torch.zeros(len(gradients), device=gradients.device)
    for (block,) in narrow_blocks(gradients):
        values = values_of_ranks(block, first, last)
        low, high = values[0], values[-1]
        kept = ((block >= low) & (block <= high)).float()
        if bool((kept.sum(dim=0) != last - first).any()):
            kept = kept_with_ties(block, low, high, first, last)
        shares += kept.sum(dim=1) / ((last - first) * gradients.shape[1])
    return shares


def kept_with_ties(
    block: Tensor, low: Tensor, high: Tensor, first: int | Tensor, last: int | Tensor
) -> Tensor:
    """How much of each entry is kept: values equal to ``low`` or ``high`` may hold ranks outside, too.

    ``low`` and ``high`` are the values of the ranks ``first`` and ``last - 1``, both the same for all columns
    or ``(d,)``.
    """
    is_low, is_high = (block == low).float(), (block == high).float()
    at_low = (block <= low).sum(dim=0) - first
    at_high = last - (block < high).sum(dim=0)
    kept_low = torch.where(low < high, at_low, last - first) * is_low / is_low.sum(dim=0)
    kept_high = torch.where(low < high, at_high, 0) * is_high / is_high.sum(dim=0)
    return ((block > low) & (block < high)) + kept_low + kept_high


def values_of_ranks(block: Tensor, first: int, last: int) -> Tensor:
    """``(M, d)`` -> ``(last - first, d)``, in at least float32: the values of ranks ``first`` (0: the smallest) to ``last - 1``."""
    wide = wide_dtype(block)
    if len(block) > NETWORK and block.device.type == "cpu":
        columns = torch.empty(block.shape[::-1], dtype=wide).copy_(block.T)
        return sort_rows(columns).T[first:last]
    scratch = block.new_empty(len(block) + 1, block.shape[1], dtype=wide)
    scratch[:-1] = block
    *rows, spare = scratch.unbind()
    for i, j, keep_low, keep_high in _network(len(block), first, last):
        low, high = rows[i], rows[j]
        if keep_low:
            torch.minimum(low, high, out=spare)
        if keep_high:
            torch.maximum(low, high, out=high)
        if keep_low:
            rows[i], spare = spare, low
    return torch.stack(rows[first:last])


def sort_rows(values: Tensor) -> Tensor:
    """``(n, m)``, overwritten on a CPU, with each row in ascending order."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)  # three times as fast as torch's
    return values


@lru_cache(maxsize=64)
def _network(size: int, first: int, last: int) -> list[tuple[int, int, bool, bool]]:
    """Comparators ``(i, j, keep_low, keep_high)`` that bring ranks ``first`` to ``last - 1`` in place, and no others."""
    live = set(range(first, last))
    network = []
    for i, j in reversed(list(_merge_exchange(size))):
        if i in live or j in live:
            network.append((i, j, i in live, j in live))
            live |= {i, j}
    return network[::-1]


def _merge_exchange(size: int) -> Iterator[tuple[int, int]]:
    """Comparators that sort any ``size`` values (Knuth, *Art of Computer Programming* 3, 5.2.2M)."""
    top = 1 << max((size - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, distance = top, 0, p
        while True:
            yield from ((i, i + distance) for i in range(size - distance) if i & p == r)
            if q == p:
                break
            distance, q, r = q - p, q >> 1, p
        p >>= 1
