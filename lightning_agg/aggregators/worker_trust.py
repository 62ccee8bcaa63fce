"""How much each worker's word counts, from what is known of the rows: functions of one round."""

from types import EllipsisType

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import row_lengths, squared_distances

LIMIT = 3.0
"""Bound of what has no bound of its own, such as distrust."""

NEARLY = 0.1
"""A row is nearly another if what is between them is at most this part of the shorter one's length."""


def senders(context: Context) -> tuple[Tensor | EllipsisType, Tensor | EllipsisType]:
    """Which workers sent the rows of a round, and which of these rows are left."""
    sent = ... if context.workers is None else context.workers
    return sent, ... if context.finite is None else context.finite


def beyond_margin(trust: Tensor, margin: float) -> Tensor:
    """What is left of trust ``(M,)`` when this part of the best worker's is taken off."""
    return trust - margin * trust.max().clamp_min(0)


def relative(trust: Tensor, margin: float) -> Tensor:
    """Beyond the margin, as a part of that in the best."""
    trust = beyond_margin(trust, margin)
    return (trust / (trust.max().abs() + 1e-6)).clamp(-LIMIT, LIMIT)


def agreement(rows: Tensor, before: Tensor | None) -> Tensor:
    """Median of the cosines of each of ``(M, d)`` with the rows trusted ``before``, or with all if none was, ``(M,)``.

    Where most of the rows are honest, no row that most of them contradict comes out above 0, however many agree with it.
    """
    trusted = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    if before is not None and bool((before > 0).any()):
        trusted = before > 0
    units = rows / positive(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
    others = trusted[None] & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    # By sorting, as the median with indices is not deterministic on a GPU; the lower one of an even number.
    cosines = (units @ units.T).masked_fill(~others, torch.inf).sort(dim=1).values
    middle = (others.sum(dim=1, keepdim=True) - 1).clamp_min(0) // 2
    return cosines.gather(1, middle)[:, 0].nan_to_num(0.0, 0.0, 0.0)


def copies_and_same(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``(M, d)`` are copies of each other, and which tell no more than one of them, ``(M, M)`` of 1 and 0 each.

    Both are those that are nearly the same, a row and itself among them. Where all rows are, nobody is a copy, as honest
    workers with large batches agree too; and only equal rows are one.
    """
    squares = row_lengths(rows).square()
    shorter = torch.minimum(squares, squares[:, None])
    nearly = squared_distances(rows) <= NEARLY**2 * shorter
    if not bool(nearly.all()):
        return nearly.to(rows), nearly.to(rows)
    groups = torch.unique(rows, dim=0, return_inverse=True)[1]
    return torch.eye(len(rows)).to(rows), (groups[:, None] == groups).to(rows)


def effective_number(weights: Tensor, same: Tensor) -> Tensor:
    """How many independent rows of weight 1 have a mean as noisy as that of rows ``(M,)`` of which some are the ``same``.

    Kish, *Survey Sampling*, 1965, section 11.7.

    Example:
        >>> same = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
        >>> effective_number(torch.ones(3), torch.eye(3)), effective_number(torch.ones(3), same)
        (tensor(3.), tensor(1.8000))
    """
    return weights.sum().square() / positive(weights @ same @ weights)


def positive(x: Tensor) -> Tensor:
    """For a denominator: 1 in place of 0, which leaves derivatives finite too."""
    return torch.where(x > 0, x, 1.0)
