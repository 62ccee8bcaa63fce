"""Trains the judges of a learned aggregator, who tell whom to trust."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_agg import seeding
from lightning_agg.aggregators.trust_judge import EVIDENCE, UNITS, JudgePanel, TrustJudge
from lightning_agg.errors import require_count, require_non_negative, require_positive
from lightning_agg.modules.factories import LRSchedulerFactory, OptimizerFactory
from lightning_agg.trust_example import TrustExample

FLOOR = 0.05
"""Squared relative errors far below this count as none."""


class TrustTraining(nn.Module):
    r"""Trains the judges of a ``Recurrent`` with ``trust`` learned, on the rounds that they have seen, as a step beside that of the network.

    With w a judge's weights of the rows, its loss is the mean over rounds of log(0.05 + e) and of the cross entropy of honest or
    not, where e is the squared distance of the mean weighted by w from the mean of the honest rows, in parts of the latter's
    squared length. Round t of an episode, from 1, counts :math:`1/\sqrt t`: what is let in early goes far, and is remembered by momentum. Of a round it needs no more than what the judges have read and the inner products of the rows, so that whole episodes are kept, and
    taken again: a window of the training gives one meta-gradient, but many steps of each judge. Where there are several,
    each draws windows of its own.

    Its memory, ``capacity`` windows, is in the checkpoint.

    Args:
        optimizer: The optimizer of the judges' weights.
        lr_scheduler: Schedule of its learning rate, stepped once a window; constant when null.
        steps: Its steps after each window, each one of every judge.
        batch_size: Windows of a task in each step, drawn from those that are kept.
        capacity: Windows of a task that are kept, the last ones: of K rounds and M workers each takes K M (4 M + 37) bytes, which is 0.08 MB for
            100 rounds of 10 workers and 4.4 MB for 100.
        cross_entropy: By what the cross entropy is multiplied.
        clip_norm: A gradient is scaled down to this norm.
    """

    evidence: Tensor
    counts: Tensor
    honest: Tensor
    products: Tensor
    memory: Tensor
    first: Tensor
    count: Tensor

    def __init__(
        self,
        optimizer: OptimizerFactory = lambda parameters: torch.optim.Adam(parameters, lr=0.005),
        lr_scheduler: LRSchedulerFactory | None = None,
        steps: int = 20,
        batch_size: int = 12,
        capacity: int = 256,
        cross_entropy: float = 0.3,
        clip_norm: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("steps", steps), ("batch_size", batch_size), ("capacity", capacity)):
            require_count(f"model.trust_training.{name}", value, minimum=1)
        require_non_negative("model.trust_training.cross_entropy", cross_entropy)
        require_positive("model.trust_training.clip_norm", clip_norm)
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.steps = steps
        self.batch_size = batch_size
        self.capacity = capacity
        self.cross_entropy = cross_entropy
        self.clip_norm = clip_norm

    def begin(self, pool_size: int, rounds: int, num_judges: int) -> None:
        """Make room for windows of so many workers and rounds, for so many judges."""

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(self.capacity, *shape, dtype=dtype)

        self.register_buffer("evidence", room(rounds, pool_size, EVIDENCE, dtype=torch.half))
        self.register_buffer("counts", room(rounds, pool_size, dtype=torch.half))
        self.register_buffer("honest", room(rounds, pool_size, dtype=torch.bool))
        self.register_buffer("products", room(rounds, pool_size, pool_size))
        self.register_buffer("memory", room(pool_size, UNITS * num_judges))
        self.register_buffer("first", room(dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def keep(self, windows: tuple[TrustExample, ...], memory: Tensor, steps: Sequence[int]) -> None:
        """Take in the window of each task, what the K judges remembered before it, ``(T, M, K UNITS)``, and the rounds of the episode before it.

        The oldest windows are forgotten.
        """
        for window, before, first in zip(windows, memory, steps, strict=True):
            place = int(self.count) % self.capacity
            for name, value in window._asdict().items():
                getattr(self, name)[place] = value.to(getattr(self, name))
            self.memory[place], self.first[place] = before, first
            self.count += 1

    def train_judges(self, judges: JudgePanel, optimizer: Any, key: tuple[int, int]) -> Tensor:
        """Steps of ``optimizer`` after a window; ``key`` is (seed, window). Gives the mean loss."""
        losses, kept = [], min(int(self.count), self.capacity)
        for step in range(self.steps):
            optimizer.zero_grad()
            for number, (judge, memory) in enumerate(judges.with_memories(self.memory)):
                rng = seeding.generator(key[0], "judge", number, key[1] * self.steps + step)
                chosen = torch.from_numpy(rng.choice(kept, min(self.batch_size, kept), replace=False))
                with torch.enable_grad():
                    loss = self._loss(judge, memory, chosen.to(self.count.device))
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(judge.parameters(), self.clip_norm)
                if not bool(norm.isfinite()):
                    judge.zero_grad()
                losses.append(loss.detach())
            optimizer.step()
        return torch.stack(losses).mean()

    def _loss(self, judge: TrustJudge, memory: Tensor, chosen: Tensor) -> Tensor:
        dtype = judge.out.weight.dtype
        counts, honest = self.counts[chosen].to(dtype), self.honest[chosen].to(dtype)
        rounds = 1 + self.first[chosen, None] + torch.arange(counts.shape[1], device=counts.device)
        weights_of_rounds = rounds.to(dtype).rsqrt()
        logits = judge.window(self.evidence[chosen].to(dtype), memory[chosen].to(dtype), counts)
        entropies = F.binary_cross_entropy_with_logits(logits, honest, reduction="none")
        weights = counts * (logits.sigmoid() + 1e-6)
        errors, defined = log_errors(weights, honest, self.products[chosen].to(dtype))
        loss = _mean(errors, weights_of_rounds * defined)
        return loss + self.cross_entropy * _mean(entropies, weights_of_rounds[..., None] * counts)


def _mean(x: Tensor, weights: Tensor) -> Tensor:
    return (weights * x).sum() / weights.sum().clamp_min(1e-9)


def log_errors(weights: Tensor, honest: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Log of 0.05 + the squared distance of the mean by ``weights`` ``(..., M)`` from the ``honest`` rows', from ``products`` ``(..., M, M)``.

    The products are in parts of the honest mean's squared length; where there is none, which is the second result, nothing is said.
    """
    shares, mean = (w / w.sum(-1, keepdim=True).clamp_min(1e-9) for w in (weights, honest))
    apart = shares - mean
    errors = torch.einsum("...i,...ij,...j->...", apart, products, apart).clamp_min(0)
    return torch.log(FLOOR + errors), products.diagonal(dim1=-2, dim2=-1).sum(-1) > 0
