"""Noisy medianSGD and noisy signSGD on quadratics, measured in runs of ``ParameterServer`` beside their exact laws."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import exact_curves as exact
import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from training_runs import Trainings, quiet_trainer

from lightning_agg.aggregators import CoordinateMedian, SignMajority
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.callbacks import NoisePerturbation, PoolCallback
from lightning_agg.data import LabelPool
from lightning_agg.models import Quadratic
from lightning_agg.modules import ParameterServer
from lightning_agg.noise_scales import TheoryScale
from lightning_agg.sweep.markdown import header, row

CENTERS = (1.0, 2.0, 10.0)
Rule = Literal["coordinate_median", "sign_majority"]
RULES: dict[Rule, Callable[[], Aggregator]] = {
    "coordinate_median": CoordinateMedian,
    "sign_majority": SignMajority,
}


def descend(
    rule: Rule,
    centers: tuple[float, ...],
    initial: list[float],
    lr: float,
    rounds: int,
    copies: int,
    seed: int,
    *callbacks: L.Callback,
) -> Tensor:
    """``(copies * d,)`` parameters after a run on the same quadratics in each of the d coordinates of ``initial``."""
    model = partial(Quadratic, centers=[[a] * len(initial) for a in centers], initial=initial, copies=copies)
    server = ParameterServer(
        RULES[rule](), model, partial(torch.optim.SGD, lr=lr), gradient_samples=0, seed=seed
    )
    data = LabelPool(len(centers), rounds_per_epoch=rounds, seed=seed)
    quiet_trainer(rounds, list(callbacks)).fit(server, datamodule=data)
    return server.model.point.detach()


# The U-shape.


def long_run(rule: Rule, b: float, lr: float, copies: int, seed: int) -> float:
    """Mean over independent copies of the squared gradient, after three relaxation times from the fixed point."""
    if rule == "coordinate_median":
        start, relaxation = exact.median_moments(CENTERS, b)[0], 1 / lr
    else:
        start, relaxation = exact.vote_fixed_point(CENTERS, b), b / (exact.vote_slope() * lr)
    x = descend(
        rule, CENTERS, [start], lr, math.ceil(3 * relaxation), copies, seed, NoisePerturbation(b, seed=seed)
    )
    return float((x - np.mean(CENTERS)).square().mean())


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


@dataclass(frozen=True)
class RateRun:
    """``copies`` independent runs of a problem in ``size`` coordinates, of which one starts away from the optimum."""

    rule: Rule
    rounds: int
    size: int
    copies: int
    seed: int


def measured_rate(run: RateRun) -> float:
    """Mean over rounds and copies of the squared gradient."""
    lr, optimum = (run.rounds * run.size) ** EXPONENTS[run.rule][0], float(np.mean(NARROW))
    initial = [optimum + 1.0] + [optimum] * (run.size - 1)
    # The copies are more coordinates to TheoryScale.
    power = 1 / 6 if run.rule == "coordinate_median" else 1 / 4
    scale = TheoryScale(run.rule, num_rounds=run.rounds, factor=run.copies**-power)
    seen = SquaredGradient()
    descend(
        run.rule, NARROW, initial, lr, run.rounds, run.copies, run.seed,
        seen, NoisePerturbation(scale, seed=run.seed),
    )  # fmt: skip
    return seen.total / seen.rounds / run.copies


def exact_rate(rule: Rule, rounds: int, size: int) -> float:
    """The expectation of :func:`measured_rate`."""
    lr, optimum = (rounds * size) ** EXPONENTS[rule][0], float(np.mean(NARROW))
    b = (rounds * size) ** (1 / 6 if rule == "coordinate_median" else 1 / 4)

    def average(start: float) -> float:
        if rule == "sign_majority":
            path = exact.vote_sgd(NARROW, b, lr, start, rounds - 1)
            return statistics.fmean(moments.squared_gradient for moments in path)
        mean, variance = exact.median_moments(NARROW, b)
        gap, away, stationary = mean - optimum, start - mean, lr / (2 - lr) * variance
        # Means over the rounds of (1 - lr)^t and its square.
        left, squared = (
            -math.expm1(k * rounds * math.log1p(-lr)) / (1 - (1 - lr) ** k) / rounds for k in (1, 2)
        )
        return gap**2 + 2 * gap * away * left + (away**2 - stationary) * squared + stationary

    return average(optimum + 1.0) + (size - 1) * (average(optimum) if size > 1 else 0.0)


def slope(x: list[int], y: list[float]) -> float:
    """Of the straight line fitted to the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rates(measure: Trainings[RateRun], longest: int, seed: int) -> Iterator[str]:
    """Both sweeps of both rules, and their slopes."""
    decades, sizes = [longest // 10**k for k in (3, 2, 1, 0)], [1, 10, 100, 1000]
    yield "# Rates of noisy medianSGD and noisy signSGD"
    yield ""
    yield (
        f"Quadratics with a = {NARROW} in each of d coordinates, of which one starts 1 away from the optimum and the others at it, so"
        " that D_f does not grow with d. Learning rate and b are those of Theorem 6 (median: (T d)^(-2/3), (T d)^(1/6)) and"
        " Theorem 5 (vote: (T d)^(-1/2), (T d)^(1/4)) of Chen et al., NeurIPS 2020. The figures are the squared norm of the"
        " gradient, averaged over the rounds: measured over independent runs, and exact (`exact_curves.py`). A slope is that"
        " of the straight line through the logarithms; the bound's is the theorem's exponent, which the others need not reach."
    )
    table, slopes = [], []
    for rule, (_, in_rounds, in_size) in EXPONENTS.items():
        sweeps = [
            ("T", decades, in_rounds, [(t, 1, 200) for t in decades]),
            ("d", sizes, in_size, [(longest // 10, d, max(1, 200 // d)) for d in sizes]),
        ]
        for name, x, bound, settings in sweeps:
            runs = [RateRun(rule, rounds, size, copies, seed) for rounds, size, copies in settings]
            exacts = [exact_rate(rule, run.rounds, run.size) for run in runs]
            measured = list(measure(runs).values())
            for run, mine, value in zip(runs, measured, exacts, strict=True):
                table.append(row(rule, name, run.rounds, run.size, run.copies, f"{mine:.5f}", f"{value:.5f}"))
            slopes.append(
                row(rule, name, f"{slope(x, measured):.3f}", f"{slope(x, exacts):.3f}", f"{bound:.3f}")
            )
    far = slope(sizes, [exact_rate("coordinate_median", 10**9, d) for d in sizes])
    yield ""
    yield (
        "Over d the bound is steeper than what happens: with many coordinates the steps are so small that T rounds hardly leave"
        f" the start. Of the median at T = 10^9 the exact slope over the same d is {far:.3f}."
    )
    yield ""
    yield from [*header("rule", "over", "slope measured", "exact", "bound"), *slopes]
    yield ""
    yield from [*header("rule", "over", "T", "d", "runs", "measured", "exact"), *table]
