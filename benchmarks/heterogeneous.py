"""medianSGD and signSGD on heterogeneous data, and the noise that mends them.

    python benchmarks/heterogeneous.py ushape --output docs/noise_ushape.png    # about a minute
    python benchmarks/heterogeneous.py rates --longest 100000                   # about ten minutes
    python benchmarks/heterogeneous.py mnist --root DIR --pool-size 5 --seeds 5 --output docs/noise_mnist_5.md

``ushape``: the mean squared gradient in the long run on the three quadratics of Chen et al. (NeurIPS 2020, Figure 1) for
each noise b, measured in runs of ``ParameterServer`` and exact (``exact_curves.py``), and the best b that theory predicts.

``rates``: the mean squared gradient over all rounds, with b and learning rate as Theorems 5 and 6 ask for, over three
decades of rounds T and of coordinates d. Beside the theorems' exponents, which are those of an upper bound, stand the
slopes of the runs and of the exact values. D_f does not grow with d: one coordinate starts away from the optimum.

``mnist``: exclusive labels, 784-128-10 with ReLU, 100 images a worker: loss, norms of the gradient and of the median
gradient (means over the last half of the validations), accuracies at the end, mean ± standard deviation over seeds.
"""

import argparse
import logging
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import exact_curves as exact
import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from lightning_agg.aggregators import CoordinateMedian, Mean, SignMajority
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.callbacks import NoisePerturbation, PoolCallback
from lightning_agg.data import LabelPool, MNISTPool, PoolDataModule
from lightning_agg.models import MLP, Quadratic
from lightning_agg.modules import ParameterServer
from lightning_agg.noise_scales import TheoryScale
from lightning_agg.partitioners import ByLabel

CENTERS = (1.0, 2.0, 10.0)
Rule = Literal["coordinate_median", "sign_majority"]
RULES: dict[Rule, Callable[[], Aggregator]] = {
    "coordinate_median": CoordinateMedian,
    "sign_majority": SignMajority,
}


def fit(
    server: ParameterServer, data: PoolDataModule, rounds: int, *callbacks: L.Callback, every: int = 0
) -> None:
    """Train for so many rounds, with a validation after each ``every``."""
    L.Trainer(
        accelerator="cpu",
        max_steps=rounds,
        max_epochs=-1,
        limit_val_batches=1.0 if every else 0,
        val_check_interval=every or None,
        check_val_every_n_epoch=None if every else 1,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=False,
        log_every_n_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(server, datamodule=data)


def quadratic(
    rule: Rule, centers: tuple[float, ...], initial: list[float], lr: float, copies: int, seed: int
) -> ParameterServer:
    """A server whose workers hold the same quadratics in every coordinate."""
    model = partial(Quadratic, centers=[[a] * len(initial) for a in centers], initial=initial, copies=copies)
    return ParameterServer(
        RULES[rule](), model, partial(torch.optim.SGD, lr=lr), gradient_samples=0, seed=seed
    )


# The U-shape.


def long_run(rule: Rule, b: float, lr: float, copies: int, seed: int) -> float:
    """Mean over independent copies of the squared gradient, after three relaxation times from the fixed point."""
    if rule == "coordinate_median":
        start, relaxation = exact.median_moments(CENTERS, b)[0], 1 / lr
    else:
        start, relaxation = exact.vote_fixed_point(CENTERS, b), b / (exact.vote_slope() * lr)
    server, rounds = quadratic(rule, CENTERS, [start], lr, copies, seed), math.ceil(3 * relaxation)
    fit(server, LabelPool(3, rounds_per_epoch=rounds, seed=seed), rounds, NoisePerturbation(b, seed=seed))
    return float((server.model.point.detach() - np.mean(CENTERS)).square().mean())


def ushape(output: Path, copies: int, seed: int) -> None:
    """Draw both U-shapes and print their values."""
    panels: list[tuple[Rule, str, float, float, Callable[[float], float]]] = [
        (
            "coordinate_median", "noisy medianSGD", 0.01, exact.best_median_noise(CENTERS, 0.01),
            lambda b: exact.median_sgd(CENTERS, b, 0.01, 0.0, math.inf).squared_gradient,
        ),
        (
            "sign_majority", "noisy signSGD", 0.1, exact.best_vote_noise(CENTERS, 0.1),
            lambda b: exact.stationary_vote(CENTERS, b, 0.1, 0.0005).squared_gradient,
        ),
    ]  # fmt: skip
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (rule, title, lr, predicted, law) in zip(
        figure.subplots(1, 2, sharey=True), panels, strict=True
    ):
        grid, curve = np.geomspace(1, 40, 9), np.geomspace(1, 40, 60)
        measured = [long_run(rule, float(b), lr, copies, seed) for b in grid]
        values = [law(float(b)) for b in curve]
        best = curve[int(np.argmin(values))]
        print(f"\n{title}, learning rate {lr}: predicted best b {predicted:.2f}, exact {best:.2f}")
        for b, value in zip(grid, measured, strict=True):
            print(f"  b {b:6.2f}   measured {value:.4f}   exact {law(float(b)):.4f}")
        axes.loglog(curve, values, label="exact")
        axes.loglog(grid, measured, "o", label="measured")
        axes.axvline(predicted, color="grey", linestyle="--", label=f"predicted best b = {predicted:.1f}")
        axes.axhline((7 / 3) ** 2, color="black", linestyle=":", label="no noise")
        axes.set(title=f"{title}, learning rate {lr}", xlabel="noise b")
        axes.legend(fontsize="small", loc="lower left")
    figure.axes[0].set_ylabel("mean squared gradient in the long run")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


# The rates.

NARROW = (0.1, 0.2, 1.0)
EXPONENTS: dict[Rule, tuple[float, float, float]] = {
    "coordinate_median": (-2 / 3, -1 / 3, 2 / 3),
    "sign_majority": (-1 / 2, -1 / 4, 3 / 4),
}
"""Of T d in the learning rate, and of T and of d in the bound: Theorem 6 and Theorem 5."""


class SquaredGradient(PoolCallback):
    """The sum over coordinates of the squared gradient at the beginning of each round, averaged over the rounds."""

    def __init__(self) -> None:
        self.total, self.rounds = 0.0, 0

    def on_worker_gradients(self, trainer: Any, pl_module: Any, gradients: Tensor, batch: Any) -> Tensor:
        """Add a round; what the workers computed is exact."""
        self.total += float(pl_module.model.point.detach().sub(np.mean(NARROW)).square().sum())
        self.rounds += 1
        return gradients


def measured_rate(rule: Rule, rounds: int, size: int, copies: int, seed: int) -> float:
    """Mean over rounds and copies of the squared gradient of the problem in ``size`` coordinates."""
    lr = (rounds * size) ** EXPONENTS[rule][0]
    initial = [float(np.mean(NARROW)) + 1.0] + [float(np.mean(NARROW))] * (size - 1)
    server, seen = quadratic(rule, NARROW, initial, lr, copies, seed), SquaredGradient()
    scale = TheoryScale(
        rule, num_rounds=rounds, factor=copies ** -(1 / 6 if rule == "coordinate_median" else 1 / 4)
    )
    fit(
        server,
        LabelPool(3, rounds_per_epoch=rounds, seed=seed),
        rounds,
        seen,
        NoisePerturbation(scale, seed=seed),
    )
    return seen.total / seen.rounds / copies


def exact_rate(rule: Rule, rounds: int, size: int) -> float:
    """The expectation of :func:`measured_rate`."""
    lr, optimum = (rounds * size) ** EXPONENTS[rule][0], float(np.mean(NARROW))
    b = (rounds * size) ** (1 / 6 if rule == "coordinate_median" else 1 / 4)

    def average(start: float) -> float:
        if rule == "sign_majority":
            path = exact.vote_sgd(NARROW, b, lr, start, rounds - 1)
            return statistics.fmean(moments.squared_gradient for moments in path)
        mean, variance = exact.median_moments(NARROW, b)
        left = (1 - lr) ** np.arange(rounds)
        squared = (mean + left * (start - mean) - optimum) ** 2
        return float((squared + lr / (2 - lr) * variance * (1 - left**2)).mean())

    return average(optimum + 1.0) + (size - 1) * (average(optimum) if size > 1 else 0.0)


def slope(x: list[int], y: list[float]) -> float:
    """Of the straight line fitted to the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rates(longest: int, seed: int) -> None:
    """Print both sweeps and their slopes."""
    decades = [longest // 10**k for k in (3, 2, 1, 0)]
    for rule, (_, in_rounds, in_size) in EXPONENTS.items():
        sweeps = [
            ("T", decades, in_rounds, [(t, 1, 200) for t in decades]),
            (
                "d",
                [1, 10, 100, 1000],
                in_size,
                [(longest // 10, d, max(1, 200 // d)) for d in (1, 10, 100, 1000)],
            ),
        ]
        for name, x, bound, runs in sweeps:
            print(f"\n{rule}, over {name}")
            exacts = [exact_rate(rule, rounds, size) for rounds, size, _ in runs]
            measured = []
            for (rounds, size, copies), value in zip(runs, exacts, strict=True):
                measured.append(measured_rate(rule, rounds, size, copies, seed))
                print(f"  T {rounds:6d}   d {size:4d}   measured {measured[-1]:9.5f}   exact {value:9.5f}")
            print(
                f"  slope: measured {slope(x, measured):.3f}   exact {slope(x, exacts):.3f}   bound {bound:.3f}"
            )


# MNIST.

VARIANTS: list[tuple[str, float, float, int | Literal["full"]]] = [
    ("sign_majority", 0.001, 0.0, "full"),
    ("sign_majority", 0.001, 1e-5, "full"),
    ("sign_majority", 0.001, 1e-3, "full"),
    ("sign_majority", 0.001, 1e-2, "full"),
    ("sign_majority", 0.001, 1e-1, "full"),
    ("sign_majority", 0.001, 0.0, 10),
    ("sign_majority", 0.01, 0.0, "full"),
    ("sign_majority", 0.01, 1e-9, "full"),
    ("sign_majority", 0.01, 1e-5, "full"),
    ("sign_majority", 0.01, 1e-3, "full"),
    ("sign_majority", 0.01, 0.0, 10),
    ("sign_majority", 0.1, 0.0, "full"),
    ("sign_majority", 0.1, 1e-5, "full"),
    ("sign_majority", 0.1, 1e-3, "full"),
    ("coordinate_median", 0.1, 0.0, "full"),
    ("coordinate_median", 0.1, 1e-3, "full"),
    ("coordinate_median", 0.1, 1e-2, "full"),
    ("coordinate_median", 0.1, 1e-1, "full"),
    ("coordinate_median", 0.1, 1.0, "full"),
    ("coordinate_median", 0.1, 0.0, 10),
    ("mean", 0.1, 0.0, "full"),
]
"""Rule, learning rate, noise b and batch size: small steps first, then the papers' literal ones."""

COLUMNS = ("train loss", "gradient", "median gradient", "zero votes", "train acc", "test acc")


class Curves(L.Callback):
    """What the table needs of every validation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Measure on all images of the workers."""
        pool, metrics = pl_module.data.pool, trainer.callback_metrics
        images, labels = pool.data.read(torch.from_numpy(np.concatenate(pool.shards)))
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


def mnist_run(
    root: str,
    pool_size: int,
    rounds: int,
    seed: int,
    rule: str,
    lr: float,
    b: float,
    batch: int | Literal["full"],
) -> dict[str, float]:
    """The figures of one run: losses and norms over the last half, accuracies at the end."""
    data = MNISTPool(
        root, pool_size=pool_size, batch_size=batch, partitioner=ByLabel(seed=seed), val_size=1000,
        public_size=59_000 - 100 * pool_size, rounds_per_epoch=rounds, seed=seed,
    )  # fmt: skip
    aggregator = {**RULES, "mean": Mean}[rule]()
    server = ParameterServer(
        aggregator,
        partial(MLP, hidden_sizes=[128], activation="relu"),
        partial(torch.optim.SGD, lr=lr),
        seed=seed,
    )
    curves = Curves()
    fit(server, data, rounds, curves, NoisePerturbation(b, seed=seed), every=max(1, rounds // 12))
    images, labels = data.test.read(torch.arange(len(data.test)))
    with torch.no_grad():
        accuracy = float((server.model(images).argmax(1) == labels).float().mean())
    half = curves.rows[len(curves.rows) // 2 :]
    means = {name: statistics.fmean(row[name] for row in half) for name in COLUMNS[:4]}
    return {**means, "train acc": curves.rows[-1]["train acc"], "test acc": accuracy}


def mnist(root: str, pool_size: int, rounds: int, seeds: int) -> Iterator[str]:
    """The lines of the table."""
    yield (
        f"{pool_size} workers with 100 images and exclusive labels each, {rounds} rounds, {seeds} seeds. `gradient` and"
        " `median gradient` are norms on the workers' whole shards, `zero votes` the share of the coordinates whose median"
        " is exactly 0."
    )
    yield ""
    yield "| rule | learning rate | b | batch | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (4 + len(COLUMNS)) + "|"
    for variant in VARIANTS:
        runs = [mnist_run(root, pool_size, rounds, seed, *variant) for seed in range(seeds)]
        cells = [spread([run[name] for run in runs]) for name in COLUMNS]
        yield "| " + " | ".join([*map(str, variant), *cells]) + " |"
        print(variant, cells, file=sys.stderr, flush=True)


def spread(values: list[float]) -> str:
    """Mean and standard deviation.

    Example:
        >>> spread([1.0, 3.0])
        '2 ± 1.4'
    """
    return f"{statistics.fmean(values):.3g}" + (
        f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    )


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("ushape")
    command.add_argument("--output", type=Path, default=Path("docs/noise_ushape.png"))
    command.add_argument("--copies", type=int, default=2000, help="independent runs of each b")
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("rates")
    command.add_argument("--longest", type=int, default=100_000, help="largest number of rounds")
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("mnist")
    command.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    command.add_argument(
        "--pool-size", type=int, default=5, help="workers: 5 with two labels each, 10 with one"
    )
    command.add_argument("--rounds", type=int, default=3000)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    if arguments.command == "ushape":
        ushape(arguments.output, arguments.copies, arguments.seed)
    elif arguments.command == "rates":
        rates(arguments.longest, arguments.seed)
    else:
        report = (
            "\n".join(mnist(arguments.root, arguments.pool_size, arguments.rounds, arguments.seeds)) + "\n"
        )
        if arguments.output is None:
            print(report, end="")
        else:
            arguments.output.write_text(report)


if __name__ == "__main__":
    main()
