"""One training with an aggregator, shipped or made by hand, under an attack: what the tables of learned aggregators are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import yaml
from torch.optim.lr_scheduler import LambdaLR
from training_runs import Marks, fitted, quiet_trainer

from lightning_agg import pretrained
from lightning_agg.aggregators import CoordinateMedian, Krum, Mean, Recurrent, Zeno
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.recurrent_settings import read_weights
from lightning_agg.attacks import (
    ALittleIsEnough,
    BitFlip,
    Disguise,
    Drop,
    Fang,
    Gaussian,
    InnerProduct,
    LabelFlip,
    Mimic,
    MinMax,
    Reverse,
    SignFlip,
)
from lightning_agg.attacks.base import Attack
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.data import CIFAR10Pool, MNISTPool
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules import ParameterServer
from lightning_agg.partitioners import IID, ByLabel, Dirichlet, Partitioner

BATCH, CIFAR_BATCH, PUBLIC_SAMPLES = 64, 16, 32
TUNING_SEEDS = (100, 101)
MARKS = (100, 200, 500, 1000)
DECAY_AFTER = 200
NO_ATTACK, UNTRAINED = "none", "untrained "
ATTACKS: dict[str, Callable[[], Attack]] = {
    "Reverse(3)": lambda: Reverse(scale=3.0),
    "Reverse(10)": lambda: Reverse(scale=10.0),
    "SignFlip own": lambda: SignFlip(of="own"),
    "Gaussian(200)": lambda: Gaussian(std=200.0),
    "Gaussian(200) shared": lambda: Gaussian(std=200.0, shared=True),
    "InnerProduct(0.1)": lambda: InnerProduct(scale=0.1),
    "InnerProduct(1)": lambda: InnerProduct(scale=1.0),
    "ALIE(1)": lambda: ALittleIsEnough(z=1.0),
    "ALIE(1.5)": lambda: ALittleIsEnough(z=1.5),
    "LabelFlip": lambda: LabelFlip(),
    "Fang": lambda: Fang(),
    "Drop": lambda: Drop(),
    "BitFlip": lambda: BitFlip(),
    "Mimic": lambda: Mimic(),
}
NOISES = (0.05, 0.2, 0.5, 1.0)
PARTITIONERS: dict[str, Partitioner] = {
    "IID": IID(seed=0),  # the same shards for every seed
    "Dirichlet(0.3)": Dirichlet(alpha=0.3, min_size=128),
    "ByLabel": ByLabel(),
}


def disguised_name(attack: str, noise: float) -> str:
    """Of an attack whose rows have noise of their own."""
    return f"{attack} + {noise:g}" if noise else attack


DISGUISED: dict[str, Callable[[], Attack]] = {
    disguised_name(name, noise): lambda make=make, noise=noise: Disguise(make(), noise)
    for name, make in ATTACKS.items()
    for noise in NOISES
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Nesterov 0.9": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "Adam": torch.optim.Adam,
}
MODELS: dict[str, Callable[[int], torch.nn.Module]] = {
    "784-20-10": MLP,
    "784-40-10": partial(MLP, hidden_sizes=[40]),
    "784-20-20-10": partial(MLP, hidden_sizes=[20, 20]),
    "784-20-10 ReLU": partial(MLP, activation="relu"),
    "ConvNet": ConvNet,
}


@dataclass(frozen=True)
class Run:
    """One training.

    ``rule`` is a class name, that of shipped weights (with settings that differ from theirs: ``NAME,setting=value,...``), or
    ``untrained`` and the latter: their settings with new weights.
    ``classes`` is a subset of the labels.
    """

    rule: str
    optimizer: str = "SGD"
    lr: float = 1.0
    attack: str = NO_ATTACK
    num_byzantine: int = 0
    first_round: int = 0
    pool_size: int = 10
    model: str = "784-20-10"
    classes: tuple[int, ...] | None = None
    rounds: int = 100
    seed: int = 0
    split: str = "test"
    data: str = "MNIST"
    decay_after: int = 0
    partitioner: str = "IID"
    participation: float = 1.0

    def schedule(self) -> Callable[[torch.optim.Optimizer], LambdaLR] | None:
        """The learning rate's: with ``decay_after`` rounds T, in round t > T it is T / t as large."""
        if not self.decay_after:
            return None
        return partial(LambdaLR, lr_lambda=lambda step: min(1.0, self.decay_after / (step + 1)))

    def aggregator(self) -> Aggregator:
        """A new one, told what it may know."""
        f, most = self.num_byzantine, (self.pool_size - 3) // 2
        if self.rule == "Krum":
            return Krum(min(f, most))
        if self.rule == "Zeno":
            return Zeno(
                f, rho=self.lr / 200, step_size=self.lr, num_samples=PUBLIC_SAMPLES, penalty="mean_square"
            )
        by_hand = {"Mean": Mean, "CoordinateMedian": CoordinateMedian}
        if self.rule in by_hand:
            return by_hand[self.rule]()
        name, changes = shipped(self.rule.removeprefix(UNTRAINED))
        if self.rule.startswith(UNTRAINED):
            torch.manual_seed(0)
            return Recurrent(**{**settings_of(name), **changes})
        return Recurrent(weights=name, **changes)


def shipped(rule: str) -> tuple[str, dict[str, Any]]:
    """Name of the weights, and the settings that differ from theirs, of ``NAME,setting=value,...``."""
    name, *changes = rule.split(",")
    return name, settings_in(changes)


def settings_in(changes: Sequence[str]) -> dict[str, Any]:
    """Those of ``setting=value`` each."""
    pairs = (change.split("=", maxsplit=1) for change in changes)
    return {setting: yaml.safe_load(value) for setting, value in pairs}


def settings_of(name: str) -> dict[str, Any]:
    """Those of shipped weights."""
    return read_weights(pretrained.locate(name))[0]


@cache
def pool(
    data: str, root: str, pool_size: int, classes: tuple[int, ...] | None, seed: int, partitioner: str
) -> MNISTPool | CIFAR10Pool:
    """The data, which the runs of a process share."""
    kind, batch = {"MNIST": (MNISTPool, BATCH), "CIFAR-10": (CIFAR10Pool, CIFAR_BATCH)}[data]
    return kind(
        root,
        val_size={"MNIST": None, "CIFAR-10": 1000}[data],
        pool_size=pool_size,
        partitioner=PARTITIONERS[partitioner],
        batch_size=batch,
        classes=None if classes is None else list(classes),
        rounds_per_epoch=max(MARKS),
        seed=seed,
    )


def train(root: str, run: Run) -> dict[str, Any]:
    """Validation loss at the marks, and accuracy (0 to 1) on the run's split at the end."""
    module = ParameterServer(
        run.aggregator(),
        MODELS[run.model],
        partial(OPTIMIZERS[run.optimizer], lr=run.lr),
        gradient_samples=0,
        seed=run.seed,
        lr_scheduler=run.schedule(),
        participation=run.participation,
    )
    attack = {**ATTACKS, **DISGUISED, "MinMax": MinMax}[run.attack]() if run.num_byzantine else None
    marks = Marks()
    trainer = quiet_trainer(
        run.rounds,
        [ByzantineInjection(attack, run.num_byzantine, first_round=run.first_round, seed=run.seed), marks],
        val_every=100,
    )
    data = pool(run.data, root, run.pool_size, run.classes, run.seed, run.partitioner)
    return fitted(trainer, module, data, marks, run.split)
