"""Workers with different models (Ji et al., IJCAI 2019, section 5.5): what averaging and learned aggregators make of them.

MNIST, a global model 784-20-10 sigmoid, batch 64, no attack. Three pools: 3 workers with the global model; these and 9 more, 3
each of the other kinds; 12 with the global model. Step sizes, the server's and the workers' own, are chosen on the validation
split with seeds of their own.

    python benchmarks/worker_models.py --root DIR --output docs/worker_models.md
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from learned_runs import BATCH, MODELS, OPTIMIZERS, TUNING_SEEDS
from reports import write_report
from training_runs import Marks, Trainings, fitted, quiet_trainer

from lightning_agg.aggregators import CoordinateMedian, Mean, Recurrent
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.data import MNISTPool
from lightning_agg.modules import ParameterServer
from lightning_agg.partitioners import IID
from lightning_agg.sweep.markdown import header, row, spread

ROUNDS, GLOBAL = (100, 200), "784-20-10"
FOUR = (GLOBAL, "784-40-10", "784-20-20-10", "784-20-10 ReLU")
POOLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "3 workers with the global model": (3, ()),
    "and 9 with three others": (12, FOUR),
    "12 with the global model": (12, ()),
}
LRS, OWN_LRS = (0.4, 0.8, 1.5, 2.0), (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Run:
    """One training: ``rule`` is the mean, the median, or the name of shipped weights."""

    rule: str
    pool: str
    lr: float = 1.0
    own_lr: float = 0.1
    seed: int = 0
    split: str = "test"


def aggregator(rule: str) -> Aggregator:
    """A new one."""
    by_hand = {"Mean": Mean, "CoordinateMedian": CoordinateMedian}
    return by_hand[rule]() if rule in by_hand else Recurrent(weights=rule)


def train(root: str, run: Run) -> dict[str, Any]:
    """Validation loss after ROUNDS, and accuracy (0 to 1) on the run's split at the end."""
    pool_size, kinds = POOLS[run.pool]
    learned = run.rule.startswith("mnist")
    module = ParameterServer(
        aggregator(run.rule),
        MODELS[GLOBAL],
        partial(OPTIMIZERS["SGD" if learned else "Nesterov 0.9"], lr=run.lr),
        worker_models=[MODELS[kind] for kind in kinds] or None,
        local_lr=run.own_lr,
        gradient_samples=0,
        seed=run.seed,
    )
    data = MNISTPool(
        root,
        pool_size=pool_size,
        partitioner=IID(seed=0),  # the same shards for every seed
        batch_size=BATCH,
        rounds_per_epoch=max(ROUNDS),
        seed=run.seed,
    )
    marks = Marks()
    trainer = quiet_trainer(max(ROUNDS), [marks], val_every=100)
    return fitted(trainer, module, data, marks, run.split)


def tuned(measure: Trainings[Run], rule: str, pool: str) -> Run:
    """With the step sizes whose loss in the end is smallest."""
    lrs = (1.0,) if rule.startswith("mnist") else LRS
    own_lrs = OWN_LRS if POOLS[pool][1] else OWN_LRS[:1]
    tried = {
        run: [replace(run, seed=seed, split="val") for seed in TUNING_SEEDS]
        for run in (Run(rule, pool, lr, own_lr) for lr in lrs for own_lr in own_lrs)
    }
    found = measure(run for group in tried.values() for run in group)
    return min(tried, key=lambda run: sum(found[one]["loss"][str(max(ROUNDS))] for one in tried[run]))


def report(measure: Trainings[Run], rules: list[str], seeds: int) -> Iterator[str]:
    """The page."""
    yield "# Workers with different models"
    yield ""
    yield (
        f"MNIST, a global model {GLOBAL} sigmoid, batch {BATCH}, no attack. The three other kinds are {', '.join(FOUR[1:])}; what they share with"
        " the global model is set to its values in each round, what is left they descend by themselves (`model.worker_models`). Validation"
        f" loss after {ROUNDS[0]} and {ROUNDS[1]} rounds and test accuracy in % after {ROUNDS[1]}, mean ± standard deviation over {seeds} seeds. Mean and median"
        f" are followed by Nesterov momentum 0.9. Step sizes, of {LRS} and, of the workers' own descent, {OWN_LRS}, are those with the smallest loss"
        " with two other seeds, for each line by itself; the learned aggregators' own is 1."
    )
    for pool, (_, kinds) in POOLS.items():
        yield ""
        yield f"## {pool}"
        yield ""
        yield from header("aggregator", *(f"{mark} rounds" for mark in ROUNDS), "test accuracy", "step sizes")
        for rule in rules:
            best = tuned(measure, rule, pool)
            runs = [replace(best, seed=seed) for seed in range(seeds)]
            found = measure(runs)
            losses = (spread([found[run]["loss"][str(mark)] for run in runs]) for mark in ROUNDS)
            steps = f"{best.lr:g}, own {best.own_lr:g}" if kinds else f"{best.lr:g}"
            accuracy = spread([found[run]["accuracy"] for run in runs], factor=100)
            yield row(f"`{rule}`", *losses, accuracy, steps)
    yield ""
    yield f"Made by `python benchmarks/worker_models.py --root DIR --seeds {seeds} --rules {' '.join(rules)}`."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument(
        "--rules",
        nargs="+",
        default=["Mean", "CoordinateMedian", "mnist_rnn_lstm", "mnist_arnn_lstm", "mnist_arnn_judge_lstm"],
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each line")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="file that keeps the results of single runs")
    parser.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure = Trainings(partial(train, arguments.root), arguments.processes, arguments.results)
    write_report(report(measure, arguments.rules, arguments.seeds), arguments.output)


if __name__ == "__main__":
    main()
