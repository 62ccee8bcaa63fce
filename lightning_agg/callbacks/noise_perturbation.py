"""Adds noise to what every worker sends."""

import math
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_agg import flat, seeding
from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.data.pool import RoundBatch
from lightning_agg.errors import SettingError, require
from lightning_agg.noise_scales import NoiseContext, NoiseScale

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule

Distribution = Literal["gaussian", "logistic", "uniform", "laplace"]


class NoisePerturbation(PoolCallback):
    """Adds ``scale`` times unit-variance noise to every coordinate of every worker, anew each round.

    ``noise/scale`` in the log is b, or its root mean square over the coordinates where they differ.

    Before a median or a majority vote it turns medianSGD and signSGD into their noisy forms, which converge on
    heterogeneous data. The theory asks for a smooth symmetric density: Gaussian and logistic have one, uniform and
    Laplace do not.

    Reference:
        Chen, Chen, Sun, Wu, Hong, *Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based
        Algorithms*, NeurIPS 2020, Algorithms 3 and 4.

    Args:
        scale: Standard deviation b of the noise, at least 0; 0 switches it off. Or a class that tells it in each
            round: ``PiecewiseScale``, ``TheoryScale``, ``PerTensorScale``.
        distribution: Law of the noise, with mean 0 and variance 1.
        seed: Seed of the noise; the run's seed when null.
    """

    def __init__(
        self,
        scale: NoiseScale | float = 0.0,  # in this order what a class refuses is told in its own words
        distribution: Distribution = "gaussian",
        seed: int | None = None,
    ) -> None:
        require(
            isinstance(scale, NoiseScale) or (math.isfinite(scale) and scale >= 0),
            f"noise.scale must be finite and at least 0, got {scale}.",
        )
        require(
            distribution in get_args(Distribution),
            f"noise.distribution must be one of {', '.join(get_args(Distribution))}, got {distribution!r}.",
        )
        self.distribution: Distribution = distribution
        self.scale = scale
        self.seed = seeding.run_seed(seed)

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check the scale against the run."""
        if stage != "fit" or not isinstance(self.scale, NoiseScale):
            return
        require(
            pl_module.rounds_in_order or not self.scale.scheduled,
            f"noise.scale must not depend on the round in {type(pl_module).__name__}, got"
            f" {type(self.scale).__name__}.",
        )
        self.scale.check(_num_rounds(trainer, pl_module))

    def on_fit_start(self, trainer: L.Trainer, pl_module: "PoolModule") -> None:  # type: ignore[override]
        """Warn of a law without noise."""
        if self.scale == 0 and self.distribution != "gaussian":
            rank_zero_warn(
                f"noise.scale should be above 0 where noise.distribution is set, or there is no noise (scale = {self.scale}, distribution ="
                f" {self.distribution})."
            )

    def on_worker_gradients(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """Add the noise of round ``batch.round``, keyed by worker."""
        if self.scale == 0:
            return gradients
        scale = self._scale(trainer, pl_module, gradients, batch)
        rms = scale.double().square().mean().sqrt() if isinstance(scale, Tensor) else scale
        pl_module.log_pool({"noise/scale": rms}, batch)
        rows = [
            self.draw(gradients.shape[1], gradients.device, worker, batch.round) for worker in batch.workers
        ]
        return torch.stack(rows).to(gradients.dtype).mul_(scale).add_(gradients)

    def _scale(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> float | Tensor:
        if not isinstance(self.scale, NoiseScale):
            return self.scale
        sizes = tuple(p.numel() for p in flat.trainable(pl_module.model).values())
        scale = self.scale(gradients, NoiseContext(batch.round, _num_rounds(trainer, pl_module), sizes))
        self._check(scale, gradients.shape[1:], batch.round)
        return scale

    def _check(self, scale: object, shape: tuple[int, ...], index: int) -> None:
        """Require what :class:`NoiseScale` promises."""
        name = f"{type(self.scale).__name__}.__call__"
        values = torch.tensor(float(scale), dtype=torch.float64) if isinstance(scale, Real) else scale
        if not isinstance(values, Tensor) or values.shape not in ((), shape):
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(scale).__name__
            raise SettingError(
                f"{name} must return a number or a torch.Tensor of shape {tuple(shape)}, got {got}."
            )
        wrong = values[~(values.isfinite() & (values >= 0))]
        require(
            len(wrong) == 0,
            f"{name} must return what is finite and at least 0, got {wrong[:1].tolist()} in round {index}.",
        )

    def draw(self, size: int, device: torch.device, worker: int, index: int) -> Tensor:
        """``(size,)`` unit-variance noise of ``worker`` in round ``index``."""
        if self.distribution == "gaussian":
            return seeding.normal(size, device, self.seed, "noise", worker, index)
        u = seeding.uniform(size, device, self.seed, "noise", worker, index).clamp_min(2.0**-25)
        if self.distribution == "uniform":
            return (2 * u - 1) * math.sqrt(3)
        if self.distribution == "logistic":
            return torch.logit(u) * (math.sqrt(3) / math.pi)
        tail = 2 * (u - 0.5)
        return -tail.sign() * torch.log1p(-tail.abs()) / math.sqrt(2)


def _num_rounds(trainer: L.Trainer, pl_module: "PoolModule") -> int | None:
    # In MetaLearner a step is not a round.
    return trainer.max_steps if pl_module.rounds_in_order and trainer.max_steps > 0 else None
