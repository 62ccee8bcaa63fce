"""The networks that judge whom to trust."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

EVIDENCE = 17
"""Numbers that one reads of a worker in a round: :meth:`lightning_agg.aggregators.trust_by_judge.TrustByJudge.evidence`."""

UNITS = 16


class TrustJudge(nn.Module):
    """Evidence on each worker, and what is remembered of it, to a logit of its weight.

    One GRU, the same for every worker, who sees the others on average: whatever the number and the order of the workers, the weights are the same. Before training it trusts
    all alike.

    Reference:
        What all workers share is read as in Zaheer et al., *Deep sets*, NeurIPS 2017, equation 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(EVIDENCE, UNITS)
        self.gru = nn.GRUCell(3 * UNITS, UNITS)
        self.out = nn.Linear(2 * UNITS, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, evidence: Tensor, memory: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """One round: ``(..., M, EVIDENCE)``, ``(..., M, UNITS)`` and for how much each counts, ``(..., M)`` -> ``(..., M)`` and the new memory.

        Who counts for nothing is not there: not seen by the others, and remembered as before.
        """
        here = counts[..., None].to(evidence)
        seen = torch.tanh(self.enc(evidence))
        count = here.sum(-2, keepdim=True).clamp_min(1)
        others = [((part * here).sum(-2, keepdim=True) / count).expand_as(part) for part in (seen, memory)]
        joined = torch.cat([seen, *others], -1)
        after = self.gru(joined.flatten(end_dim=-2), memory.flatten(end_dim=-2)).view_as(memory)
        memory = torch.where(here > 0, after, memory)
        return self.out(torch.cat([memory, seen], -1))[..., 0], memory

    def window(self, evidence: Tensor, memory: Tensor, counts: Tensor) -> Tensor:
        """K rounds of B trainings: ``(B, K, M, EVIDENCE)``, ``(B, M, UNITS)`` and ``(B, K, M)`` -> ``(B, K, M)``."""
        logits = []
        for k in range(evidence.shape[1]):
            logit, memory = self(evidence[:, k], memory, counts[:, k])
            logits.append(logit)
        return torch.stack(logits, 1)


class JudgePanel(nn.ModuleList):
    """Judges who each remember the workers by themselves, and of whose logits the median counts.

    Those of one training begin apart, and draw their examples apart, so that the chance of that is evened out; what its episodes lacked, all of them
    lack. Put together, those of several trainings know what any of them taught: of an even number the lower one of the two in the middle counts, so that whom half of
    them distrust is distrusted.

    Reference:
        Lakshminarayanan et al., *Simple and scalable predictive uncertainty estimation using deep ensembles*, NeurIPS 2017, who take the mean.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        super().__init__(TrustJudge() for _ in range(size))

    def __iter__(self) -> Iterator[TrustJudge]:
        return cast(Iterator[TrustJudge], super().__iter__())

    def with_memories(self, memory: Tensor) -> Iterator[tuple[TrustJudge, Tensor]]:
        """Each of K judges with its own part of ``(..., K UNITS)``."""
        return zip(self, memory.chunk(len(self), dim=-1), strict=True)

    def forward(self, evidence: Tensor, memory: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """As one judge, with ``(..., M, K UNITS)`` for the memories of K of them, one after the other."""
        said = [judge(evidence, own, counts) for judge, own in self.with_memories(memory)]
        # By sorting, as the median is not deterministic on a GPU.
        logits = torch.stack([logit for logit, _ in said]).sort(dim=0).values
        return logits[(len(self) - 1) // 2], torch.cat([after for _, after in said], -1)
