"""Trainings on images whose labels are exclusive: every worker holds labels that no other has."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import quiet_trainer

from lightning_agg.aggregators import CoordinateMedian, Mean, Recurrent, SignMajority
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks import ALittleIsEnough, Gaussian, Reverse, SignFlip
from lightning_agg.attacks.base import Attack
from lightning_agg.callbacks import ByzantineInjection, NoisePerturbation
from lightning_agg.data import CIFAR10Pool, MNISTPool
from lightning_agg.lr_schedulers import PiecewiseConstantLR
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules import ParameterServer
from lightning_agg.noise_scales import PerTensorScale
from lightning_agg.partitioners import IID, ByLabel

RULES: dict[str, Callable[[], Aggregator]] = {
    "sign_majority": SignMajority,
    "coordinate_median": CoordinateMedian,
    "mean": Mean,
}
ATTACKS: dict[str, Callable[[], Attack]] = {
    "SignFlip own": SignFlip,
    "Gaussian(200)": lambda: Gaussian(std=200.0),
    "ALIE(1.5)": lambda: ALittleIsEnough(z=1.5),
    "Reverse(10)": lambda: Reverse(scale=10.0),
}
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "784-128-10 ReLU": partial(MLP, hidden_sizes=[128], activation="relu"),
    "784-20-10 ReLU": partial(MLP, hidden_sizes=[20], activation="relu"),
    "784-20-10 sigmoid": partial(MLP, hidden_sizes=[20], activation="sigmoid"),
    "ConvNet": ConvNet,
}
VALIDATIONS, VAL_SIZE = 12, 1000
AVERAGED = ("train loss", "gradient", "median gradient", "zero votes")
COLUMNS = (*AVERAGED, "train acc", "test acc")


@dataclass(frozen=True)
class Run:
    """One training. ``rule`` is one of RULES, or weights of a learned aggregator.

    With ``per_tensor`` b is relative to the largest gradient entry of each tensor. With ``decay`` the learning rate is halved, a
    tenth and a twentieth after 1/7, 3/7 and 5/7 of the rounds (the paper's 1000, 3000 and 5000 of 7000).
    """

    rule: str
    lr: float
    b: float = 0.0
    batch: int | Literal["full"] = "full"
    pool_size: int = 5
    rounds: int = 3000
    seed: int = 0
    model: str = "784-128-10 ReLU"
    attack: str = "none"
    num_byzantine: int = 0
    images: int = 100
    per_tensor: bool = False
    decay: bool = False
    exclusive: bool = True

    def aggregator(self) -> Aggregator:
        """A new one."""
        return RULES[self.rule]() if self.rule in RULES else Recurrent(weights=self.rule)

    def data(self, root: str) -> MNISTPool | CIFAR10Pool:
        """``images`` images for each worker; the rest is public."""
        kind, size = (CIFAR10Pool, 50_000) if self.model == "ConvNet" else (MNISTPool, 60_000)
        return kind(
            root,
            pool_size=self.pool_size,
            batch_size=self.batch,
            partitioner=ByLabel(seed=self.seed) if self.exclusive else IID(seed=self.seed),
            val_size=VAL_SIZE,
            public_size=size - VAL_SIZE - self.images * self.pool_size,
            rounds_per_epoch=self.rounds,
            seed=self.seed,
        )

    def callbacks(self) -> list[L.Callback]:
        """Noise and attackers."""
        scale = PerTensorScale(self.b) if self.per_tensor and self.b else self.b
        attack = ATTACKS[self.attack]() if self.num_byzantine else None
        return [
            NoisePerturbation(scale, seed=self.seed),
            ByzantineInjection(attack, self.num_byzantine, seed=self.seed),
        ]

    def schedule(self) -> Callable[[torch.optim.Optimizer], PiecewiseConstantLR] | None:
        """The learning rate's, if it is not constant."""
        milestones = [self.rounds * k // 7 for k in (1, 3, 5)]
        return (
            partial(PiecewiseConstantLR, milestones=milestones, factors=[0.5, 0.1, 0.05])
            if self.decay
            else None
        )


class Curves(L.Callback):
    """What the tables need of every validation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Measure on all images of the honest workers."""
        pool, metrics = pl_module.data.pool, trainer.callback_metrics
        honest = [shard for m, shard in enumerate(pool.shards) if m not in pl_module.byzantine()]
        images, labels = pool.data.read(torch.from_numpy(np.concatenate(honest)))
        with torch.no_grad():
            scores = pl_module.model(images)
        self.rows.append(
            {
                "train loss": float(F.cross_entropy(scores, labels)),
                "gradient": float(metrics["val/gradient_norm"]),
                "median gradient": float(metrics["val/median_gradient_norm"]),
                "zero votes": float(metrics["val/median_zeros"]),
                "train acc": float((scores.argmax(1) == labels).float().mean()),
            }
        )


def train(root: str, run: Run) -> dict[str, float]:
    """Losses and norms, means over the last half of the validations, and accuracies (0 to 1) at the end."""
    server = ParameterServer(
        run.aggregator(),
        MODELS[run.model],
        partial(torch.optim.SGD, lr=run.lr),
        lr_scheduler=run.schedule(),
        seed=run.seed,
    )
    curves, data = Curves(), run.data(root)
    trainer = quiet_trainer(
        run.rounds, [*run.callbacks(), curves], val_every=max(1, run.rounds // VALIDATIONS)
    )
    trainer.fit(server, datamodule=data)
    (figures,) = trainer.test(server, datamodule=data, verbose=False)
    half = curves.rows[len(curves.rows) // 2 :]
    means = {name: statistics.fmean(row[name] for row in half) for name in AVERAGED}
    return {**means, "train acc": curves.rows[-1]["train acc"], "test acc": figures["test/accuracy"]}
