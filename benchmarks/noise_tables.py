"""Tables of trainings on exclusive labels: MNIST, CIFAR-10, learned aggregators."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from noise_images import COLUMNS, Run
from training_runs import Trainings

from lightning_agg.sweep.markdown import header, row, spread

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

NORMS = (
    "`gradient` and `median gradient` are norms on the workers' whole shards, `zero votes` the share of the coordinates"
    " whose median is exactly 0."
)
TUNING_SEED = 100


def over_seeds(measure: Trainings[Run], run: Run, seeds: int) -> list[str]:
    """The cells of COLUMNS."""
    found = measure(replace(run, seed=seed) for seed in range(seeds)).values()
    return [spread([figures[name] for figures in found]) for name in COLUMNS]


def mnist(measure: Trainings[Run], pool_size: int, rounds: int, seeds: int) -> Iterator[str]:
    """What noise and batches do to vote and median."""
    yield f"{pool_size} workers with 100 images and exclusive labels each, {rounds} rounds, {seeds} seeds. {NORMS}"
    yield ""
    yield from header("rule", "learning rate", "b", "batch", *COLUMNS)
    for rule, lr, b, batch in VARIANTS:
        run = Run(rule, lr, b, batch, pool_size, rounds)
        yield row(rule, lr, b, batch, *over_seeds(measure, run, seeds))


CIFAR: list[tuple[str, dict[str, Any]]] = [
    ("mean", {"rule": "mean"}),
    ("sign_majority, IID", {"rule": "sign_majority", "exclusive": False}),
    ("sign_majority", {"rule": "sign_majority"}),
    *(
        (f"sign_majority, b = {factor} of the largest entry", {"rule": "sign_majority", "b": factor})
        for factor in (0.01, 0.1, 1.0)
    ),
]
CIFAR_LRS = {"mean": (0.1,), "sign_majority": (0.001, 0.01)}


def cifar(measure: Trainings[Run], rounds: int, seeds: int) -> Iterator[str]:
    """Majority vote on CIFAR-10 with noise of each tensor in proportion to its largest gradient entry."""
    images, batch = 200, 20
    yield "# CIFAR-10 with exclusive labels"
    yield ""
    yield (
        f"`ConvNet` (13,018 parameters), 5 workers with {images} images of two labels each, batch {batch}, {rounds} rounds, seeds: {seeds};"
        " in the line IID every worker has all labels. Learning rate halved, a tenth and a twentieth after 1/7, 3/7 and 5/7 of the"
        " rounds, as in the paper (1000, 3000 and 5000 of 7000, ResNet20, all images: `configs/noise/cifar10.yaml`). Averages over the"
        f" last half of the rounds, accuracies at the end. {NORMS}"
    )
    yield ""
    yield from header("rule", "learning rate", *COLUMNS)
    for name, settings in CIFAR:
        for lr in CIFAR_LRS[settings["rule"]]:
            run = Run(
                lr=lr, batch=batch, rounds=rounds, model="ConvNet", images=images, per_tensor=True,
                decay=True, **settings,
            )  # fmt: skip
            yield row(name, lr, *over_seeds(measure, run, seeds))


def tuned(measure: Trainings[Run], runs: Iterable[Run]) -> Run:
    """That with the smallest training loss, on a seed that no figure is made with."""
    runs = list(runs)
    found = measure(replace(run, seed=TUNING_SEED) for run in runs)
    return min(runs, key=lambda run: found[replace(run, seed=TUNING_SEED)]["train loss"])


LEARNED_LRS, LEARNED_NOISES = (0.1, 0.3, 1.0, 3.0, 10.0), (0.001, 0.01, 0.1, 1.0)


def learned(
    measure: Trainings[Run], weights: list[str], models: list[str], rounds: int, seeds: int
) -> Iterator[str]:
    """Whether a learned aggregator needs noise."""
    yield "# Learned aggregators on exclusive labels"
    yield ""
    yield (
        f"MNIST, 10 workers with 100 images of one label each, full gradients, {rounds} rounds, {seeds} seeds, no attackers. Averages over the last"
        f" half of the rounds, accuracies at the end. Learning rates of {LEARNED_LRS} (learned: 0.2 or 1) and b of {LEARNED_NOISES} are those with"
        f" the smallest training loss with a seed of their own. {NORMS} `mnist_rnn_lstm` trusts a worker by the median of its cosines with"
        " the others: with one label each that is negative, hardly anybody is trusted, and the model does not learn."
    )
    hand_made = [("mean", (0.0,)), ("coordinate_median", (0.0,)), ("coordinate_median", LEARNED_NOISES)]
    for model in models:
        yield ""
        yield f"## {model}"
        yield ""
        yield from header("rule", "learning rate", "b", *COLUMNS)
        common: dict[str, Any] = {"pool_size": 10, "rounds": rounds, "model": model}
        for rule, noises in hand_made:
            run = tuned(measure, [Run(rule, lr, b, **common) for lr in LEARNED_LRS for b in noises])
            yield row(rule, run.lr, run.b, *over_seeds(measure, run, seeds))
        for name in weights:
            run = tuned(measure, [Run(name, lr, **common) for lr in (0.2, 1.0)])
            yield row(f"`{name}`", run.lr, 0, *over_seeds(measure, run, seeds))
