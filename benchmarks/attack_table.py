"""Test accuracy of every aggregator under every attack, beside independent figures.

MNIST, 784-20-10 sigmoid, 10 workers with a tenth of the data each, batch 128, plain SGD with learning rate 0.5, 250
rounds, attackers the first 3 or 7 workers. Every run goes through ``ParameterServer``, ``MNISTPool`` and
``ByzantineInjection``; the data is read once per process and seed. Rules that are told a number of attackers are told
the true one, or the largest that they allow below it; without attack, 3.

Two rules do not fit a learning rate of 0.5 by themselves. Their setting is chosen first, without attack, on the
validation split: for ``SignMajority`` the learning rate with the best accuracy, for ``CenteredClipping`` the smallest
radius whose accuracy is within half a point of the best (a large radius is the mean: without attack, nothing speaks
against it).

The independent figures were computed by another code base, most of them with a single seed. ``--start lecun``
begins with the initial values that fit its figures; torch's own are the default here as in the package.

    python benchmarks/attack_table.py --root DIR --output docs/attack_table.md     # about 15 minutes of one core

What follows the heading "Differences" in an existing output file is kept.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from reports import write_report
from torch import nn
from training_runs import Trainings, quiet_trainer

from lightning_agg.aggregators import (
    CenteredClipping,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Mean,
    MultiKrum,
    SignMajority,
    TrimmedMean,
    Zeno,
)
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks import Gaussian, LabelFlip, Reverse, SignFlip
from lightning_agg.attacks.base import Attack
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.data import MNISTPool
from lightning_agg.models import MLP
from lightning_agg.modules import ParameterServer
from lightning_agg.partitioners import IID

POOL_SIZE, BATCH, LR, ROUNDS = 10, 128, 0.5, 250
NOTABLE = 3.0
KEPT_FROM = "## Differences"


def zeno(num_byzantine: int, num_samples: int) -> Zeno:
    return Zeno(num_byzantine, rho=LR / 200, step_size=LR, num_samples=num_samples, penalty="mean_square")


# Number of attackers told, and the rule's own setting -> rule.
RULES: dict[str, Callable[[int, float], Aggregator]] = {
    "Mean": lambda f, _: Mean(),
    "CoordinateMedian": lambda f, _: CoordinateMedian(),
    "TrimmedMean": lambda f, _: TrimmedMean(min(f, 4)),
    "Krum": lambda f, _: Krum(min(f, 3)),
    "MultiKrum": lambda f, _: MultiKrum(min(f, 3)),
    "GeometricMedian": lambda f, _: GeometricMedian(),
    "CenteredClipping": lambda f, radius: CenteredClipping(radius),
    "SignMajority": lambda f, lr: SignMajority(),
    "Zeno, 4 samples": lambda f, _: zeno(f, 4),
    "Zeno, 32 samples": lambda f, _: zeno(f, 32),
}
GRIDS = {
    "SignMajority": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "CenteredClipping": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}
ATTACKS: dict[str, Callable[[], Attack]] = {
    "Reverse(3)": lambda: Reverse(scale=3.0),
    "SignFlip": lambda: SignFlip(of="own"),
    "Gaussian(200)": lambda: Gaussian(std=200.0),
    "LabelFlip": lambda: LabelFlip(),
}
NO_ATTACK = "no attack"
# Rule -> number of attackers -> attack -> test accuracy in %, of each seed where there are several.
INDEPENDENT: dict[str, dict[int, dict[str, tuple[float, ...]]]] = {
    "Mean": {
        0: {NO_ATTACK: (90.0,)},
        3: {"Reverse(3)": (10.1,), "SignFlip": (85.1,), "Gaussian(200)": (11.2,), "LabelFlip": (84.0,)},
        7: {"Reverse(3)": (10.1,), "SignFlip": (10.1,), "Gaussian(200)": (7.8,), "LabelFlip": (1.8,)},
    },
    "CoordinateMedian": {
        3: {"Reverse(3)": (85.1,), "SignFlip": (87.0,), "Gaussian(200)": (89.7,), "LabelFlip": (86.4,)},
        7: {"Reverse(3)": (10.1,), "SignFlip": (10.1,), "Gaussian(200)": (14.7,), "LabelFlip": (1.3,)},
    },
    "TrimmedMean": {
        3: {"Reverse(3)": (84.0,), "SignFlip": (86.9,), "Gaussian(200)": (89.8,), "LabelFlip": (86.1,)},
        7: {"Reverse(3)": (10.1,), "SignFlip": (10.1,), "Gaussian(200)": (14.6,), "LabelFlip": (1.3,)},
    },
    "Krum": {
        0: {NO_ATTACK: (89.4,)},
        3: {"Reverse(3)": (89.3,), "SignFlip": (89.1,), "Gaussian(200)": (89.3,), "LabelFlip": (89.4,)},
        7: {"Reverse(3)": (10.1,), "SignFlip": (10.1,), "Gaussian(200)": (89.3,), "LabelFlip": (1.0,)},
    },
    "Zeno, 4 samples": {
        3: {"Reverse(3)": (85.6,), "SignFlip": (87.5,), "Gaussian(200)": (90.0,), "LabelFlip": (86.4,)},
        7: {
            "Reverse(3)": (74.5, 78.8, 74.4),
            "SignFlip": (73.1, 75.6, 74.7),
            "Gaussian(200)": (89.7,),
            "LabelFlip": (12.1,),
        },
    },
    "Zeno, 32 samples": {7: {"Reverse(3)": (87.6, 86.4, 87.1), "SignFlip": (86.4, 86.9, 84.0)}},
}


@dataclass(frozen=True)
class Run:
    """One training run; ``setting`` is the learning rate of ``SignMajority`` or the radius of ``CenteredClipping``."""

    rule: str
    attack: str
    num_byzantine: int
    seed: int
    setting: float | None = None
    split: Literal["val", "test"] = "test"


def lecun(num_classes: int) -> nn.Module:
    """The MLP with normal weights of variance 1 / fan-in and zero biases."""
    model = MLP(num_classes)
    model(torch.zeros(1, 1, 28, 28))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return model


STARTS: dict[str, Callable[[int], nn.Module]] = {"torch": MLP, "lecun": lecun}


@cache
def pool(root: str, seed: int) -> MNISTPool:
    """The data of a seed, which every run of this process shares."""
    return MNISTPool(
        root,
        pool_size=POOL_SIZE,
        batch_size=BATCH,
        partitioner=IID(seed=seed),
        rounds_per_epoch=ROUNDS,
        seed=seed,
    )


def accuracy(root: str, start: str, run: Run) -> float:
    """Accuracy in % at the end of a run."""
    setting = run.setting or LR
    module = ParameterServer(
        RULES[run.rule](run.num_byzantine or 3, setting),
        STARTS[start],
        partial(torch.optim.SGD, lr=setting if run.rule == "SignMajority" else LR),
        gradient_samples=0,
        seed=run.seed,
    )
    attack = ATTACKS[run.attack]() if run.num_byzantine else None
    trainer = quiet_trainer(
        ROUNDS, [ByzantineInjection(attack, run.num_byzantine, fixed=True, seed=run.seed)]
    )
    data = pool(root, run.seed)
    trainer.fit(module, datamodule=data)
    evaluate = trainer.test if run.split == "test" else trainer.validate
    (figures,) = evaluate(module, datamodule=data, verbose=False)
    return 100 * figures[f"{run.split}/accuracy"]


Measure = Callable[[Iterable[Run]], dict[Run, float]]


def choose(measure: Measure, seeds: int) -> tuple[dict[str, float], list[str]]:
    """The settings of the rules in ``GRIDS``, and the lines of the table that tells how they were found."""

    def runs(rule: str, setting: float) -> list[Run]:
        return [Run(rule, NO_ATTACK, 0, seed, setting, "val") for seed in range(seeds)]

    results = measure(run for rule, grid in GRIDS.items() for x in grid for run in runs(rule, x))
    chosen, lines = {}, []
    for rule, grid in GRIDS.items():
        found = {x: statistics.mean(results[run] for run in runs(rule, x)) for x in grid}
        best = max(found, key=lambda x: found[x])
        if rule == "CenteredClipping":
            best = min(x for x in grid if found[x] >= found[best] - 0.5)
        chosen[rule] = best
        name = "learning rate" if rule == "SignMajority" else "radius"
        cells = (
            f"**{x:g}: {value:.1f}**" if x == best else f"{x:g}: {value:.1f}" for x, value in found.items()
        )
        lines.append(f"- `{rule}`, {name}: {', '.join(cells)}.")
    return chosen, lines


def table(measure: Measure, start: str, seeds: int) -> Iterator[str]:
    """The lines of the report."""
    chosen, grid_lines = choose(measure, seeds)
    columns = [(0, NO_ATTACK), *product((3, 7), ATTACKS)]

    def runs(rule: str, num_byzantine: int, attack: str) -> list[Run]:
        return [Run(rule, attack, num_byzantine, seed, chosen.get(rule)) for seed in range(seeds)]

    results = measure(run for rule in RULES for column in columns for run in runs(rule, *column))
    yield "# Aggregators under attack"
    yield ""
    yield (
        f"MNIST, 784-20-10 sigmoid, {POOL_SIZE} workers (IID), batch {BATCH}, learning rate {LR}, {ROUNDS} rounds,"
        f" initial values by {start}; attackers are the first workers. Test accuracy in %: mean ± standard deviation over {seeds} seeds."
        " In brackets, where there is one, the figure of an independent code base (a single seed, or the mean of three)"
        f" and our difference from it; a cell is **bold** where they differ by more than {NOTABLE:g} points."
    )
    yield ""
    yield (
        "`Krum` and `MultiKrum` are told 3 attackers, `TrimmedMean` 3 of 3 and 4 of 7, `Zeno` the true number (3 in the"
        " column without attack); `Zeno` has a trial step of 0.5 and a penalty of 0.0025 on the mean square."
    )
    yield ""
    yield f"Made by `python benchmarks/attack_table.py --root DIR --seeds {seeds} --start {start} --output FILE`."
    for number in (3, 7):
        shown = [(q, attack) for q, attack in columns if q in ((0, 3) if number == 3 else (7,))]
        yield ""
        yield f"## {number} attackers of {POOL_SIZE}"
        yield ""
        yield "| aggregator | " + " | ".join(attack for _, attack in shown) + " |"
        yield "|---" * (len(shown) + 1) + "|"
        for rule in RULES:
            values = ([results[run] for run in runs(rule, *column)] for column in shown)
            told = (INDEPENDENT.get(rule, {}).get(q, {}).get(attack) for q, attack in shown)
            yield "| " + " | ".join([rule, *map(cell, values, told)]) + " |"
    yield ""
    yield "## Settings chosen without attack, on the validation split"
    yield ""
    yield "Validation accuracy in %, mean over the seeds."
    yield ""
    yield from grid_lines


def cell(values: list[float], independent: tuple[float, ...] | None) -> str:
    """Mean and spread of ours, and beside them the independent figure and the difference.

    Example:
        >>> cell([89.0, 90.0, 91.0], (85.0,))
        '**90.0 ± 1.0 (85.0, +5.0)**'
    """
    mean = statistics.mean(values)
    text = f"{mean:.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")
    if independent is None:
        return text
    other = statistics.mean(independent)
    text += f" ({other:.1f}, {mean - other:+.1f})"
    return f"**{text}**" if abs(mean - other) > NOTABLE else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--start", choices=STARTS, default="torch", help="initial values of the model")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    measure = Trainings(partial(accuracy, arguments.root, arguments.start), arguments.processes)
    write_report(table(measure, arguments.start, arguments.seeds), arguments.output, KEPT_FROM)


if __name__ == "__main__":
    main()
