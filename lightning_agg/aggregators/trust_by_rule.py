"""Whom to trust, by a rule."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.copies import copies_and_same, effective_number
from lightning_agg.aggregators.seen import Seen
from lightning_agg.aggregators.worker_trust import (
    LARGEST_DESCENT,
    Trusted,
    agreement,
    beyond_margin,
    bounded_descents,
    cosines,
    of_rows,
    positive,
    public_gradient,
    relative,
    summed,
    toward,
)


@dataclass(frozen=True)
class TrustByRule:
    """Trusts workers by the descents of their trial steps, or by their peers; see :class:`Recurrent` for the settings."""

    trust: Literal["losses", "peers"]
    gate: bool
    num_samples: int
    trial_step: float
    trust_decay: float
    trust_margin: float
    direction_decay: float
    direction_margin: float
    distrust_copies: bool

    def __call__(self, gradients: Tensor, context: Context, seen: Seen) -> Trusted:
        """``(m, d)`` finite rows -> trust in the workers who sent them."""
        trust, seen = self._trust(gradients, context, seen)
        weights = (2 * trust).clamp(0, 1)
        if not self.gate:
            return Trusted(trust, weights, weights.sum(), seen)
        copies = same = torch.eye(len(gradients)).to(gradients)
        if self.distrust_copies:
            copies, same = copies_and_same(gradients)
        votes = 1 / copies.sum(dim=1) ** 2
        trust, weights = torch.where(trust > 0, trust * votes, trust), weights * votes
        weights = weights / positive(weights.max())
        return Trusted(trust, weights, effective_number(weights, same), seen)

    def _trust(self, gradients: Tensor, context: Context, seen: Seen) -> tuple[Tensor, Seen]:
        """Trust in each row's worker, relative to that in the best one, and what the next round needs."""
        if self.trust == "peers":
            before = None
            if self.trust_decay:
                before = beyond_margin(of_rows(seen.trust, context), self.trust_margin)
            latest = agreement(cosines(gradients), before)
        else:
            latest = bounded_descents(gradients, context, self.trial_step, self.num_samples)
        trust, total = self._summed(latest, seen.trust, context, -LARGEST_DESCENT)
        trust, seen = relative(trust, self.trust_margin), seen._replace(trust=total)
        if not self.direction_decay:
            return trust, seen
        # A stealthy attack is hidden in one round by what all gradients share in the directions in which the training
        # oscillates; these cancel in the sum, and what is left is where the training goes.
        gradient = public_gradient(context, self.num_samples, gradients)
        direction = self.direction_decay * seen.direction + gradient / positive(
            torch.linalg.vector_norm(gradient)
        )
        latest = toward(gradients, direction)
        agreed, total = self._summed(latest, seen.agreement, context, -1.0)
        trust = torch.minimum(trust, relative(agreed, self.direction_margin))
        return relative(trust, 0.0), seen._replace(direction=direction, agreement=total)

    def _summed(self, latest: Tensor, total: Tensor, context: Context, worst: float) -> tuple[Tensor, Tensor]:
        if not self.trust_decay:
            return latest, total
        total = summed(latest, total, self.trust_decay, context, worst)
        return of_rows(total, context), total
