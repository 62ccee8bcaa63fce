"""Whom to trust, by networks that were trained to tell."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.copies import Kinds, copies_and_same, effective_number, kinds_of
from lightning_agg.aggregators.linalg import row_lengths
from lightning_agg.aggregators.seen import Seen
from lightning_agg.aggregators.trust_judge import EVIDENCE, JudgePanel
from lightning_agg.aggregators.worker_trust import (
    LARGEST_DESCENT,
    LIMIT,
    Judged,
    Trusted,
    agreement,
    bounded_descents,
    cosines,
    in_parts_of,
    of_rows,
    positive,
    public_gradient,
    relative,
    summed,
    toward,
)

DIRECTION_DECAY = 0.9
"""Of the running sum of the public gradient's directions."""

SUM_DECAYS = (1.0, 0.9, 1.0, 0.95, 1.0)
"""Of the running sums: descents, twice; cosines with the sum of the public directions, with the public gradient, with the others."""

WORST = (-LARGEST_DESCENT, -LARGEST_DESCENT, -1.0, -1.0, -1.0)
"""What they add for a row that was dropped."""

LEAST_WEIGHT = 0.05
"""Part of the largest weight that is taken off everyone's, so that a row of any length can count for nothing."""

PUBLIC_SUMS = [1, 2, 5, 6]
"""Of the evidence, what is summed up along the public gradients, in parts of the best worker's: descents, twice, and cosines, twice."""

HOPELESS = -20.0
"""Logit of whom all of these speak against."""

LENGTH_DECAY = 0.9
"""Of the running mean of the public gradient's length."""

EVEN = 0.5
"""The weight of a worker who is as likely honest as not."""

EARLY = 20
"""Rounds until which an episode counts as early."""

LATE = 100
"""Rounds from which on an episode counts as late."""


@dataclass(frozen=True)
class TrustByJudge:
    """Trusts workers by what judges make of them; see :class:`Recurrent` for the settings."""

    judges: JudgePanel
    length_limit: float
    trust_horizon: int
    trust_floor: float
    merge_copies: bool
    early_samples: int
    trial_step: float
    num_samples: int

    def __call__(self, gradients: Tensor, context: Context, seen: Seen, step: int) -> Trusted:
        """``(m, d)`` finite rows of round ``step`` of an episode -> trust in the workers who sent them."""
        early = self.early_samples if step < EARLY else 0
        public = public_gradient(context, max(self.num_samples, early), gradients)
        copies, same = copies_and_same(gradients)
        apart = torch.eye(len(gradients)).to(gradients)
        # Merged, k copies say as much as one of them, so that they gain nothing by their number, and who is copied loses nothing.
        merged, left = (copies, apart) if self.merge_copies else (apart, copies)
        kinds = kinds_of(gradients, merged)
        read, seen = self.evidence(kinds, left, public, context, seen, step)
        workers = of_rows(torch.arange(len(seen.judged), device=gradients.device), context)
        whole = read.new_zeros(len(seen.judged), EVIDENCE).index_copy(0, workers, read)
        counts = read.new_zeros(len(seen.judged)).index_copy(0, workers, kinds.counts)
        present = counts > 0
        logits, memory = self.judges(whole, seen.judged, counts)
        # All four: honest workers whose shards are uneven have some below it, and noise some of anybody's.
        hopeless = whole[:, PUBLIC_SUMS].amax(1) < self.trust_floor
        logits = torch.where(hopeless, logits.clamp_max(HOPELESS), logits)
        verdict = torch.where(present, F.logsigmoid(logits), seen.verdict)
        judged = present | (seen.verdict < 0)  # who has sent nothing finite so far has not been
        best = verdict[judged].max()
        if not bool(seen.heard.all()):  # the first rounds may have had none but attackers
            best = best.clamp_min(math.log(EVEN))
        trust = ((verdict[workers] - best).exp() - LEAST_WEIGHT).clamp_min(0) / (1 - LEAST_WEIGHT)
        weights = kinds.counts * trust
        length = torch.linalg.vector_norm(public).reshape(1)
        usual = length if step == 0 else LENGTH_DECAY * seen.length + (1 - LENGTH_DECAY) * length
        bound, lengths = (
            self.length_limit * torch.maximum(length, usual),
            row_lengths(gradients).to(gradients),
        )
        cut = torch.where((bound > 0) & (lengths > bound), bound / positive(lengths), 1.0)
        seen = seen._replace(judged=memory, verdict=verdict, length=usual)
        number = trust.max() * effective_number(weights, same)
        return Trusted(trust, weights, number, seen, Judged(whole, counts, cut))

    def evidence(
        self, kinds: Kinds, copies: Tensor, public: Tensor, context: Context, seen: Seen, step: int
    ) -> tuple[Tensor, Seen]:
        """What is read of the ``kinds`` of m rows, of which these are still ``copies``, ``(m, m)``, beside the ``public`` gradient ``(d,)``: ``(m, EVIDENCE)``; and what the next round needs."""
        rows, of_row, _ = kinds
        length, lengths = torch.linalg.vector_norm(public), row_lengths(rows).to(rows)
        direction = DIRECTION_DECAY * seen.direction + public / positive(length)
        descents = bounded_descents(rows, context, self.trial_step, self.num_samples)
        with_public, with_sum, with_others = toward(rows, public), toward(rows, direction), cosines(rows)
        if len(rows) == 2:  # if they contradict each other, that speaks against neither
            with_others = with_others.clamp_min(0)
        middle = agreement(with_others, None)
        latest = torch.stack([descents, descents, with_sum, with_public, middle], 1)[of_row]
        decays, worst = rows.new_tensor(sum_decays(step, self.trust_horizon)), rows.new_tensor(WORST)
        sums = summed(latest, seen.sums, decays, context, worst)
        heard = summed(rows.new_ones(len(of_row)), seen.heard, 1.0, context, 1.0)
        # As if all had taken part in as many rounds, and in parts of the best of all.
        most = weight_of_sum(decays, heard.max())
        evened = sums * (most / positive(weight_of_sum(decays, heard[:, None])))
        best = evened[heard > 0].amax(0)
        all_descents, late_descents, agreed, public_sum, middle_sum = in_parts_of(
            best, of_rows(evened, context)
        ).T
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        logs = positive(lengths).log()
        others = with_others.masked_fill(own, 0).sum(1) / max(len(rows) - 1, 1)
        read = [
            relative(descents, 0)[of_row],
            all_descents,
            late_descents,
            with_public[of_row],
            with_sum[of_row],
            agreed,
            public_sum,
            middle[of_row],
            others[of_row],
            middle_sum,
            (logs - logs.median()).clamp(-LIMIT, LIMIT)[of_row],
            (logs - positive(length).log()).clamp(-LIMIT, LIMIT)[of_row],
            1 / copies.sum(1),
            with_others.masked_fill(own, -1).amax(1)[of_row],
            torch.full_like(agreed, min(1.0, math.log1p(step) / math.log1p(LATE))),
            (lengths * with_public / positive(length)).clamp(-LIMIT, LIMIT)[of_row],
            torch.minimum(all_descents, agreed),
        ]
        return torch.stack(read, 1), seen._replace(direction=direction, sums=sums, heard=heard)


def sum_decays(step: int, trust_horizon: int) -> tuple[float, ...]:
    r"""Those of round ``step``, from 0: past the horizon T, :math:`1 - (1 - \beta) T / t` in the t-th round.

    Progress in a round falls as 1 / t, its noise does not: what sums up to something in a hundred rounds wants as many times more of them later.

    Example:
        >>> [round(decay, 3) for decay in sum_decays(199, 100)]
        [1.0, 0.95, 1.0, 0.975, 1.0]
    """
    if not trust_horizon or step < trust_horizon:
        return SUM_DECAYS
    return tuple(1 - (1 - decay) * trust_horizon / (step + 1) for decay in SUM_DECAYS)


def weight_of_sum(decay: Tensor, rounds: Tensor) -> Tensor:
    """What a running sum of so many ones is: 1 + ``decay`` + ... + ``decay`` ** (``rounds`` - 1).

    Example:
        >>> weight_of_sum(torch.tensor([1.0, 0.5]), torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[0.0000, 0.0000],
                [1.0000, 1.0000],
                [3.0000, 1.7500]])
    """
    return torch.where(decay == 1, rounds, (1 - decay**rounds) / positive(1 - decay))
