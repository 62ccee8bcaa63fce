"""How much each worker's word counts, from what is known of the rows: functions of one round."""

from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import row_lengths
from lightning_agg.aggregators.seen import Seen

LIMIT = 3.0
"""Bound of what has no bound of its own, such as distrust."""

LARGEST_ENTRY = 1e15
"""Bound of the entries of gradients, whose squares then stay finite: an attacker of weight 0 must not make 0 times infinity."""

LARGEST_DESCENT = 1.0
"""Bound, in nats, of the descent that one round can add to the trust in a worker."""


class Judged(NamedTuple):
    """What a judge of M workers has done in a round.

    Attributes:
        evidence: What it has read of each, ``(M, EVIDENCE)``.
        counts: For how much of a worker each of them counts, ``(M,)``: for nothing who sent none of the m rows.
        cut: By what the rows are to be multiplied, ``(m,)``.
    """

    evidence: Tensor
    counts: Tensor
    cut: Tensor


class Trusted(NamedTuple):
    """What a round makes of the workers of its m rows.

    Attributes:
        trust: In each, relative to that in the best one, ``(m,)``.
        weights: By which the gate weighs the rows, from 0 to 1, ``(m,)``.
        number: How many workers the trusted ones are worth, a scalar.
        seen: What the next round needs.
        judged: What a judge has done, if there is one.
    """

    trust: Tensor
    weights: Tensor
    number: Tensor
    seen: Seen
    judged: Judged | None = None


def bounded(rows: Tensor) -> Tensor:
    """Entries beyond the largest one allowed are cut to it."""
    if torch.linalg.vector_norm(rows, torch.inf) > LARGEST_ENTRY:
        return rows.clamp(-LARGEST_ENTRY, LARGEST_ENTRY)
    return rows


def senders(context: Context) -> tuple[Tensor | EllipsisType, Tensor | EllipsisType]:
    """Which workers sent the rows of a round, and which of these rows are left."""
    sent = ... if context.workers is None else context.workers
    return sent, ... if context.finite is None else context.finite


def of_rows(of_workers: Tensor, context: Context) -> Tensor:
    """What is known of each worker, ``(M, ...)`` -> of those of the rows that are left, ``(m, ...)``."""
    sent, present = senders(context)
    return of_workers[sent][present]


def beyond_margin(trust: Tensor, margin: float) -> Tensor:
    """What is left of trust ``(M,)`` when this part of the best worker's is taken off."""
    return trust - margin * trust.max().clamp_min(0)


def relative(trust: Tensor, margin: float) -> Tensor:
    """Beyond the margin, as a part of that in the best."""
    trust = beyond_margin(trust, margin)
    return in_parts_of(trust.max(), trust)


def in_parts_of(best: Tensor, trust: Tensor) -> Tensor:
    """Trust as a part of that in the best."""
    return (trust / (best.abs() + 1e-6)).clamp(-LIMIT, LIMIT)


def bounded_descents(rows: Tensor, context: Context, trial_step: float, num_samples: int) -> Tensor:
    """Of a trial step along each of ``(M, d)``, ``(M,)``; a loss that is no number counts as the worst."""
    descents = context.descents(rows, trial_step, num_samples).to(rows.dtype)
    return descents.nan_to_num(-LARGEST_DESCENT).clamp(-LARGEST_DESCENT, LARGEST_DESCENT)


def public_gradient(context: Context, num_samples: int, like: Tensor) -> Tensor:
    """On the public samples of a round, ``(d,)``; 0 where it is not finite."""
    gradient = context.gradient(num_samples).to(like).nan_to_num(0.0, 0.0, 0.0)
    return gradient.clamp(-LARGEST_ENTRY, LARGEST_ENTRY)


def summed(
    latest: Tensor, total: Tensor, decay: float | Tensor, context: Context, worst: float | Tensor
) -> Tensor:
    """The running sum ``(M, ...)`` of what rounds say of each worker, with the ``latest`` on those of its rows.

    Of a worker whose row was dropped the round says the worst.
    """
    sent, present = senders(context)
    said = torch.zeros_like(total[sent]) + worst
    said[present] = latest
    after = total.clone()
    after[sent] = decay * total[sent] + said
    return after


def toward(rows: Tensor, direction: Tensor) -> Tensor:
    """Cosines of ``(M, d)`` with ``(d,)``; 0 where either has no direction."""
    lengths = row_lengths(rows) * torch.linalg.vector_norm(direction)
    return (rows @ direction / positive(lengths)).to(rows)


def cosines(rows: Tensor) -> Tensor:
    """Of each of ``(M, d)`` with each, ``(M, M)``."""
    units = rows / positive(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
    return units @ units.T


def agreement(cosines: Tensor, before: Tensor | None) -> Tensor:
    """Median of the cosines ``(M, M)`` of each row with the rows trusted ``before``, or with all if none was, ``(M,)``.

    Where most of the rows are honest, no row that most of them contradict comes out above 0, however many agree with it.
    """
    trusted = torch.ones(len(cosines), dtype=torch.bool, device=cosines.device)
    if before is not None and bool((before > 0).any()):
        trusted = before > 0
    others = trusted[None] & ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    # By sorting, as the median with indices is not deterministic on a GPU; the lower one of an even number.
    ordered = cosines.masked_fill(~others, torch.inf).sort(dim=1).values
    middle = (others.sum(dim=1, keepdim=True) - 1).clamp_min(0) // 2
    return ordered.gather(1, middle)[:, 0].nan_to_num(0.0, 0.0, 0.0)


def positive(x: Tensor) -> Tensor:
    """For a denominator: 1 in place of 0, which leaves derivatives finite too."""
    return torch.where(x > 0, x, 1.0)
