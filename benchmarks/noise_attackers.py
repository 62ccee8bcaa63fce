"""Noise and attackers together: what noisy medianSGD and noisy signSGD survive as the noise grows."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exact_curves as exact
import numpy as np
from matplotlib.figure import Figure
from noise_images import ATTACKS, Run
from noise_quadratics import CENTERS, Rule, descend
from training_runs import Trainings

from lightning_agg.attacks import Gaussian
from lightning_agg.callbacks import ByzantineInjection, NoisePerturbation
from lightning_agg.sweep.markdown import header, row, spread

TITLES: dict[Rule, str] = {"coordinate_median": "noisy medianSGD", "sign_majority": "noisy signSGD"}
HONEST = CENTERS * 3
LRS: dict[Rule, float] = {"coordinate_median": 0.01, "sign_majority": 0.1}
PUSHING = (0, 2, 4, 6, 8)
PUSHED_BY = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)

IMAGE_LRS: dict[Rule, float] = {"coordinate_median": 0.1, "sign_majority": 0.003}
LYING = (0, 1, 2, 3, 4)
NOISES = (0.0, 0.01, 0.1, 1.0)
SURVIVES = 0.5


@dataclass(frozen=True)
class Pushed:
    """``copies`` independent long runs on the quadratics of nine honest workers, with attackers on top."""

    rule: Rule
    b: float
    attackers: int
    copies: int = 500
    seed: int = 0


def law(rule: Rule, b: float, attackers: int) -> float:
    """The mean squared gradient in the long run."""
    if rule == "coordinate_median":
        moments = exact.median_sgd(HONEST, b, LRS[rule], 0.0, math.inf, attackers=attackers)
    else:
        moments = exact.stationary_vote(HONEST, b, LRS[rule], 0.0005, attackers=attackers)
    return moments.squared_gradient


def long_run(run: Pushed) -> float:
    """The same in runs of three relaxation times, which begin at the fixed point."""
    lr, f = LRS[run.rule], run.attackers
    if run.rule == "coordinate_median":
        start, relaxation = exact.median_moments(HONEST, run.b, attackers=f)[0], 1 / lr
    else:
        start = exact.vote_fixed_point(HONEST, run.b, attackers=f)
        relaxation = run.b / (exact.vote_slope() * lr)
    push = Gaussian(mean=1e6, std=1.0) if f else None
    x = descend(
        run.rule, (0.0,) * f + HONEST, [start], lr, math.ceil(3 * relaxation), run.copies, run.seed,
        NoisePerturbation(run.b, seed=run.seed), ByzantineInjection(push, f, fixed=True, seed=run.seed),
    )  # fmt: skip
    return float((x - np.mean(HONEST)).square().mean())


def quadratics(measure: Trainings[Pushed]) -> Iterator[str]:
    """The table of the quadratics."""
    found = measure(Pushed(rule, b, f) for rule in TITLES for f in PUSHING for b in PUSHED_BY)
    yield "## Quadratics"
    yield ""
    yield (
        "Nine honest workers, three each with a = 1, 2, 10, and f attackers more, who all push x the same way, down, with"
        " gradients as large as they like. Mean squared gradient of the honest objective in the long run, measured (exact);"
        f" without noise and attackers it is {(7 / 3) ** 2:.2f}. Learning rate {LRS['coordinate_median']} (median) and"
        f" {LRS['sign_majority']} (vote)."
    )
    yield ""
    yield (
        "Both rules stop where honest votes outweigh the attackers. When b is large beside the differences of the honest"
        " gradients, that needs a probability of each honest vote which depends on the numbers of workers alone, so the gradient"
        " there grows like c b: "
        + ", ".join(f"c = {abs(exact.pushed(len(HONEST), f)):.2f} for f = {f}" for f in PUSHING[1:])
        + " (about f sqrt(pi / 2) / H for few attackers). The gap that noise closes falls like 1 / b^2, what it opens to attackers"
        " grows like b."
    )
    for rule, title in TITLES.items():
        yield ""
        yield f"### {title}"
        yield ""
        yield from header("attackers", *(f"b = {b:g}" for b in PUSHED_BY))
        for f in PUSHING:
            cells = (f"{found[Pushed(rule, b, f)]:.3g} ({law(rule, b, f):.3g})" for b in PUSHED_BY)
            yield row(f"{f} of {len(HONEST) + f}", *cells)


def image_run(rule: Rule, b: float, attack: str, number: int, seed: int) -> Run:
    """A training on MNIST; without attackers it is the same for every attack."""
    return Run(
        rule, IMAGE_LRS[rule], b, pool_size=10, rounds=300, seed=seed, model="784-20-10 ReLU",
        attack=attack if number else "none", num_byzantine=number,
    )  # fmt: skip


class Accuracies:
    """Accuracy on the honest workers' images of every training."""

    def __init__(self, measure: Trainings[Run], seeds: int) -> None:
        cases = [(r, b, a, f) for r in TITLES for b in NOISES for f in LYING for a in ATTACKS]
        self.seeds = seeds
        self.found: dict[Run, Any] = measure(image_run(*case, s) for s in range(seeds) for case in cases)

    def of(self, rule: Rule, b: float, attack: str, number: int) -> list[float]:
        """One for each seed."""
        return [self.found[image_run(rule, b, attack, number, s)]["train acc"] for s in range(self.seeds)]

    def worst(self, rule: Rule, b: float, number: int) -> float:
        """The mean under the attack that does most harm."""
        return min(statistics.fmean(self.of(rule, b, attack, number)) for attack in ATTACKS)

    def survived(self, rule: Rule, b: float) -> str:
        """The largest number of attackers up to which the worst stays above SURVIVES."""
        reached = [f for f in LYING if all(self.worst(rule, b, g) >= SURVIVES for g in LYING[: f + 1])]
        return f"**{reached[-1]}**" if reached else "-"


def images(accuracies: Accuracies) -> Iterator[str]:
    """The tables of MNIST."""
    yield "## MNIST"
    yield ""
    yield (
        "Ten workers with 100 images of one label each, attackers drawn from them, 784-20-10 ReLU, full gradients, 300 rounds, learning rate"
        f" {IMAGE_LRS['coordinate_median']} (median) and {IMAGE_LRS['sign_majority']} (vote). Accuracy in % on the images of the honest"
        f" workers (of whose labels there are 10 - f), seeds: {accuracies.seeds}. Attackers see the noisy gradients and add no noise."
        f" *survived*: up to so many attackers it stays above {100 * SURVIVES:.0f} % under each attack; - where it is below without attackers."
    )
    for rule, title in TITLES.items():
        yield ""
        yield f"### {title}"
        yield ""
        yield from header("attack", "attackers", *(f"b = {b:g}" for b in NOISES))
        for f in LYING:
            for attack in ATTACKS if f else ["none"]:
                cells = (spread(accuracies.of(rule, b, attack, f), 100) for b in NOISES)
                yield row(attack, f, *cells)
        yield row("**survived**", "", *(accuracies.survived(rule, b) for b in NOISES))


def draw(pushes: Trainings[Pushed], accuracies: Accuracies, output: Path) -> None:
    """Quadratics above, MNIST below."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels, curve = figure.subplots(2, 2, sharey="row"), np.geomspace(1, 40, 60)
    for rule, (above, below) in zip(TITLES, panels.T, strict=True):
        for index, f in enumerate(PUSHING):
            color = f"C{index}"
            above.loglog(curve, [law(rule, float(b), f) for b in curve], color=color, label=f"{f} of {9 + f}")
            measured = pushes(Pushed(rule, b, f) for b in PUSHED_BY)
            above.loglog(PUSHED_BY, list(measured.values()), "o", color=color)
        above.axhline((7 / 3) ** 2, color="black", linestyle=":", label="0, without noise")
        above.set(title=f"{TITLES[rule]}, quadratics", xlabel="noise b", ylim=(0.03, 3e5))
        above.legend(
            fontsize="small", title="attackers (lines: exact, dots: measured)", ncols=2, loc="upper left"
        )
        for f in LYING:
            worst = [100 * accuracies.worst(rule, b, f) for b in NOISES]
            below.plot(range(len(NOISES)), worst, "o-", color=f"C{f}", label=f"{f} of 10")
        below.set_xticks(range(len(NOISES)), [f"{b:g}" for b in NOISES])
        below.set(title=f"{TITLES[rule]}, MNIST, worst attack", xlabel="noise b")
        below.legend(fontsize="small", title="attackers")
    panels[0, 0].set_ylabel("mean squared gradient in the long run")
    panels[1, 0].set_ylabel("accuracy on honest images, %")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


def report(pushes: Trainings[Pushed], trainings: Trainings[Run], seeds: int, figure: Path) -> Iterator[str]:
    """Both tables; draws the figure too."""
    accuracies = Accuracies(trainings, seeds)
    yield "# Noise and attackers together"
    yield ""
    yield from quadratics(pushes)
    yield ""
    yield from images(accuracies)
    draw(pushes, accuracies, figure)
