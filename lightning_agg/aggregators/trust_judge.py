"""The network that judges whom to trust."""

import torch
from torch import Tensor, nn

EVIDENCE = 17
"""Numbers that it reads of a worker in a round: :func:`lightning_agg.aggregators.trust_by_judge.evidence`."""

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

    def forward(self, evidence: Tensor, memory: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """One round: ``(..., M, EVIDENCE)``, ``(..., M, UNITS)`` and who is there, ``(..., M)`` -> ``(..., M)`` and the new memory.

        Who is not there is not seen by the others, and remembered as before.
        """
        here = present[..., None].to(evidence)
        seen = torch.tanh(self.enc(evidence))
        count = here.sum(-2, keepdim=True).clamp_min(1)
        others = [((part * here).sum(-2, keepdim=True) / count).expand_as(part) for part in (seen, memory)]
        joined = torch.cat([seen, *others], -1)
        after = self.gru(joined.flatten(end_dim=-2), memory.flatten(end_dim=-2)).view_as(memory)
        memory = torch.where(present[..., None], after, memory)
        return self.out(torch.cat([memory, seen], -1))[..., 0], memory

    def window(self, evidence: Tensor, memory: Tensor, present: Tensor) -> Tensor:
        """K rounds of B trainings: ``(B, K, M, EVIDENCE)``, ``(B, M, UNITS)`` and ``(B, K, M)`` -> ``(B, K, M)``."""
        logits = []
        for k in range(evidence.shape[1]):
            logit, memory = self(evidence[:, k], memory, present[:, k])
            logits.append(logit)
        return torch.stack(logits, 1)
