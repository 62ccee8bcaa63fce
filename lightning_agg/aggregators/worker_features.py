"""What the learned aggregators see of a round: the rows in an order, at a scale, as inputs of each coordinate."""

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lightning_agg.aggregators import line_search
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.seen import Seen
from lightning_agg.aggregators.trust_by_judge import SUM_DECAYS, TrustByJudge
from lightning_agg.aggregators.trust_by_rule import TrustByRule
from lightning_agg.aggregators.trust_judge import UNITS, JudgePanel
from lightning_agg.aggregators.worker_trust import LIMIT, Judged, Trusted, bounded, positive

Order = Literal["given", "sorted", "trust"]
Scale = Literal["l2", "median", "lead", "trusted"]
Clamp = Literal["signed", "literal", "drop"]
Trust = Literal["losses", "peers", "learned"]
Part = TypeVar("Part", TrustByRule, TrustByJudge)


@dataclass(frozen=True)
class Features:
    """Inputs of one round.

    Args:
        inputs: ``(n, d)``.
        scale: ``(d,)``, by which the network's output is multiplied.
        seen: What the next round needs.
        judged: What a judge has done, if there is one.
    """

    inputs: Tensor
    scale: Tensor
    seen: Seen
    judged: Judged | None


@dataclass(frozen=True)
class WorkerFeatures:
    """Turns the ``(M, d)`` matrix of a round into the network's inputs; see :class:`Recurrent` for the settings."""

    slots: int
    loss_information: bool
    worker_order: Order
    scale: Scale
    running_scale: float
    adaptivity: float
    normalization: float
    batch_scaling: float
    batch_decay: float
    clamp: Clamp
    clamp_exponent: float
    num_samples: int
    trial_step: float
    gate: bool
    trust: Trust
    length_limit: float
    trust_horizon: int
    trust_floor: float
    merge_copies: bool
    early_samples: int
    trust_decay: float
    trust_margin: float
    direction_decay: float
    direction_margin: float
    distrust_copies: bool
    momenta: list[float]
    line_search: bool
    judges: JudgePanel | None = None

    @property
    def input_size(self) -> int:
        """Inputs n of a coordinate; the momenta are the last of them."""
        slots = self.slots * (2 if self.loss_information else 1)
        return slots + self.gate + bool(self.running_scale) + len(self.momenta)

    @property
    def public_samples(self) -> int:
        """Public samples that a round needs."""
        asks_for_losses = self.line_search or (self.trust != "peers" and self._asks_for_trust)
        return max(self.num_samples, self.early_samples) if asks_for_losses or self.direction_decay else 0

    @property
    def _asks_for_trust(self) -> bool:
        return self.loss_information or self.gate or self.worker_order == "trust"

    @property
    def remembers_workers(self) -> bool:
        """Whether a worker is trusted by earlier rounds, too."""
        return self.trust_decay > 0 or self.judges is not None

    def unseen(self, pool_size: int, like: Tensor) -> Seen:
        """What is carried before the first round, for gradients with the coordinates of ``like``."""
        judged, panel = (0, 0) if self.judges is None else (pool_size, len(self.judges))
        return Seen(
            like.new_zeros(like.shape[-1] if self.running_scale else 0),
            like.new_zeros(pool_size if self.trust_decay else 0),
            like.new_zeros(like.shape[-1] if self.direction_decay or judged else 0),
            like.new_zeros(pool_size if self.trust_decay and self.direction_decay else 0),
            like.new_zeros(1 if self.batch_decay else 0),
            like.new_zeros(len(self.momenta), like.shape[-1]),
            line_search.begin(like) if self.line_search else like.new_zeros(0),
            like.new_zeros(judged, len(SUM_DECAYS)),
            like.new_zeros(judged, UNITS * panel),
            like.new_zeros(judged),
            like.new_zeros(judged),
            like.new_zeros(1 if judged else 0),
        )

    def __call__(self, gradients: Tensor, context: Context, seen: Seen, step: int) -> Features:
        """``(M, d)`` finite rows -> the inputs of round ``step`` of the episode (from 0)."""
        gradients = bounded(gradients)
        trust, weights, number, seen, judged = self.trusted(gradients, context, seen, step)
        if judged is not None:
            gradients = judged.cut[:, None] * gradients
        share, seen = self._share(number, len(gradients), seen, step)
        rows = gradients
        if self.worker_order == "sorted":
            rows = gradients.sort(dim=0).values
        elif self.worker_order == "trust":
            order = trust.argsort(descending=True, stable=True)
            rows, trust, weights = gradients[order], trust[order], weights[order]
        slots = self._in_slots(weights[:, None] * rows if self.gate else rows)
        scale = self._scale(rows, slots, weights)
        center = self._center(rows, weights)[None] if self.gate or self.momenta else rows[:0]
        parts = [slots, center] if self.gate else [slots]
        parts = [self._clamped(torch.where(scale > 0, part / positive(scale), 0.0)) for part in parts]
        if self.loss_information:
            parts.append(self._in_slots(trust)[:, None].expand(-1, rows.shape[1]))
        running = seen.running
        if self.running_scale:
            running = self.running_scale * running + (1 - self.running_scale) * scale.square()
            usual = _root(running / (1 - self.running_scale ** (step + 1)))
            ratio = (scale / positive(usual)).clamp_min(math.exp(-LIMIT)).log().clamp_max(LIMIT)
            parts.append(torch.where(usual > 0, ratio, 0.0)[None])
            scale = usual
        momenta = seen.momenta
        if self.momenta:
            decays = rows.new_tensor(self.momenta)[:, None]
            momenta = decays * momenta + (1 - decays) * center
            parts.append(torch.where(scale > 0, momenta / positive(scale), 0.0).clamp(-LIMIT, LIMIT))
        seen = seen._replace(running=running, momenta=momenta)
        return Features(torch.cat(parts), share * self._normalized(scale), seen, judged)

    def trusted(self, gradients: Tensor, context: Context, seen: Seen, step: int) -> Trusted:
        """``(M, d)`` bounded rows -> what becomes of the workers in round ``step``."""
        if not self._asks_for_trust:
            nobody = gradients.new_zeros(len(gradients))
            return Trusted(nobody, nobody, nobody.sum(), seen)
        if self.judges is not None:
            return self._part(TrustByJudge)(gradients, context, seen, step)
        return self._part(TrustByRule)(gradients, context, seen)

    def _part(self, cls: type[Part]) -> Part:
        """One that has some of these settings."""
        return cls(**{field.name: getattr(self, field.name) for field in fields(cls)})

    def _share(self, number: Tensor, rows: int, seen: Seen, step: int) -> tuple[Tensor | float, Seen]:
        """By how much the step follows the number of trusted workers, and what the next round needs."""
        if not self.batch_scaling:
            return 1.0, seen
        if self.batch_decay:
            before = seen.number if step else float(rows)
            number = (self.batch_decay * before + (1 - self.batch_decay) * number).reshape(1)
            seen = seen._replace(number=number)
        return (number / self.slots).clamp_max(1) ** self.batch_scaling, seen

    def _in_slots(self, rows: Tensor) -> Tensor:
        """``(M, ...)`` in an order -> ``(slots, ...)``: missing ones 0, or slot k the mean of the k-th part of the order."""
        missing = self.slots - len(rows)
        if missing > 0 and (self.gate or self.worker_order == "given"):
            rows = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
        if len(rows) == self.slots:
            return rows
        weights = overlap(len(rows), self.slots).to(rows)
        slots: Tensor = torch.tensordot(weights, rows, dims=1)
        return slots

    def _center(self, rows: Tensor, weights: Tensor) -> Tensor:
        if self.gate:
            return weights @ rows / positive(weights.sum())
        if self.worker_order == "sorted":
            rows = rows[(len(rows) - 1) // 2 : len(rows) // 2 + 1]
        return rows.mean(dim=0)

    def _scale(self, rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        if self.scale == "l2":
            return _root(slots.square().sum(dim=0))
        if self.scale == "median":
            return rows.abs().median(dim=0).values
        if self.scale == "lead":
            return _root(slots[:2].square().mean(dim=0))
        return _root(weights @ rows.square() / positive(weights.sum()))

    def _normalized(self, scale: Tensor) -> Tensor:
        evened = self._evened(scale)
        if not self.normalization:
            return evened
        return evened / positive(torch.linalg.vector_norm(scale)) ** self.normalization

    def _evened(self, scale: Tensor) -> Tensor:
        if not self.adaptivity:
            return scale
        usual = _root(scale.square().mean())
        return torch.where(scale > 0, scale * (usual / positive(scale)) ** self.adaptivity, 0.0)

    def _clamped(self, x: Tensor) -> Tensor:
        if self.scale != "l2":
            x = x.clamp(-LIMIT, LIMIT)
        least = math.exp(-self.clamp_exponent)
        small = x.abs() < least
        if self.clamp == "signed":
            return torch.where(small, x.sign() * least, x)
        return torch.where(small, least if self.clamp == "literal" else 0.0, x)


def overlap(rows: int, slots: int) -> Tensor:
    """``(slots, rows)``: the share of slot k's part ``[k, k + 1) rows / slots`` that row i, ``[i, i + 1)``, fills.

    Example:
        >>> overlap(4, 2)
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]])
        >>> overlap(2, 3)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    edges = torch.arange(slots + 1, dtype=torch.float64, device="cpu") * rows / slots
    i = torch.arange(rows, dtype=torch.float64, device="cpu")
    shared = torch.minimum(edges[1:, None], i + 1) - torch.maximum(edges[:-1, None], i)
    return (shared.clamp_min(0) * slots / rows).float()


def _root(x: Tensor) -> Tensor:
    return torch.where(x > 0, positive(x).sqrt(), 0.0)
