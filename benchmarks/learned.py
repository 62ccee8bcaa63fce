"""Learned aggregators beside hand-made ones whose step size is tuned: without attack, under attack, in other pools.

MNIST, 784-20-10 sigmoid, batch 64 per worker, IID (and CIFAR-10), through ``ParameterServer`` and ``ByzantineInjection``.
Step sizes are chosen on the validation split with seeds of their own (100, 101); every figure is the mean and
standard deviation over ``--seeds`` others; the test set is read once, at the end of each run.

    python benchmarks/learned.py clean    --root DIR --output docs/learned_clean.md
    python benchmarks/learned.py paired   --root DIR --seeds 25 --output docs/learned_paired.md
    python benchmarks/learned.py attacked --root DIR --output docs/learned_attacked.md
    python benchmarks/learned.py disguised --root DIR --output docs/learned_disguised.md
    python benchmarks/learned.py late     --root DIR --output docs/learned_late.md
    python benchmarks/learned.py sizes    --root DIR --output docs/learned_sizes.md
    python benchmarks/learned.py few      --root DIR --output docs/learned_few.md
    python benchmarks/learned.py sampled  --root DIR --output docs/learned_sampled.md
    python benchmarks/learned.py transfer --root DIR --output docs/learned_transfer.md
    python benchmarks/learned.py cifar    --root DIR --output docs/learned_cifar.md
    python benchmarks/learned.py trust    --root DIR --output docs/learned_trust.md

``--results FILE`` keeps what was computed, so that a table with one more row is cheap.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from learned_runs import (
    ATTACKS,
    CIFAR_BATCH,
    DECAY_AFTER,
    MARKS,
    MODELS,
    NO_ATTACK,
    NOISES,
    OPTIMIZERS,
    PUBLIC_SAMPLES,
    TUNING_SEEDS,
    UNTRAINED,
    Run,
    disguised_name,
    settings_of,
    shipped,
    train,
)
from reports import write_report
from training_runs import Trainings

from lightning_agg import pretrained
from lightning_agg.sweep.markdown import header, row, spread

WHAT_UNTRAINED_IS = "*Untrained* is with the same settings and new weights: what is beyond it was learned."
BY_RULE = {
    "MNIST": "trust=losses,trust_decay=1,trust_margin=0.25,direction_decay=0.9,direction_margin=0.25,distrust_copies=true",
    "CIFAR-10": "trust=losses,trust_decay=0.995,trust_margin=0.25,direction_decay=0.9,direction_margin=0.5,distrust_copies=true",
}
"""The best rule of trust that was found by hand."""

GRIDS: dict[str, tuple[float, ...]] = {
    "SGD": (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6),
    "Nesterov 0.9": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5),
    "Adam": (0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12),
}
ATTACKED_GRIDS: dict[str, tuple[float, ...]] = {
    "SGD": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "Nesterov 0.9": (0.1, 0.2, 0.4, 0.8, 1.6),
}
CIFAR_GRIDS: dict[str, tuple[float, ...]] = {
    "SGD": (0.05, 0.1, 0.2, 0.3, 0.5),
    "Nesterov 0.9": (0.01, 0.02, 0.04, 0.06, 0.1),
    "Adam": (0.001, 0.002, 0.004, 0.008),
}
CIFAR_ATTACKED_GRIDS: dict[str, tuple[float, ...]] = {
    "SGD": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
    "Nesterov 0.9": (0.005, 0.01, 0.02, 0.04),
    "Adam": (0.001, 0.002, 0.004, 0.008),
}

Measure = Callable[[Iterable[Run]], dict[Run, dict[str, Any]]]
Column = TypeVar("Column", int, float, tuple[int, int, float])
Choice = TypeVar("Choice")


def _beside_untrained(learned: list[str]) -> list[str]:
    """The learned aggregators, and the settings without the training of those that follow momenta from the start."""
    return [
        *learned,
        *(
            UNTRAINED + rule
            for rule in learned
            if settings_of(shipped(rule)[0])["momenta"] and "arnn" not in rule
        ),
    ]


def _name(rule: str) -> str:
    return f"{UNTRAINED}`{rule.removeprefix(UNTRAINED)}`" if rule.startswith(UNTRAINED) else f"`{rule}`"


def clean(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Validation loss without attack, in and past the trained horizon."""
    yield "# Without attack"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, 10 workers, batch 64. Validation loss after 100, 200, 500 and 1000 rounds, and test accuracy in"
        f" % after 1000, mean ± standard deviation over {seeds} seeds. The baselines' step size is the best of a grid *for"
        " each column by itself* (in brackets), found with other seeds; a learned aggregator has one set of weights for all."
        f" {WHAT_UNTRAINED_IS} *Falling*: the step size is {DECAY_AFTER} / t as large in round t > {DECAY_AFTER}, as that of the learned aggregators whose"
        f" `decay_after` is {DECAY_AFTER}."
    )
    yield ""
    yield from header("aggregator", *(f"{mark} rounds" for mark in MARKS), "test accuracy")
    for optimizer, decay in [*((name, 0) for name in OPTIMIZERS), ("Nesterov 0.9", DECAY_AFTER)]:
        cells = []
        for mark in MARKS:
            lr = _tuned(measure, optimizer, mark, decay)
            runs = [
                Run("Mean", optimizer, lr, rounds=max(MARKS), seed=s, decay_after=decay) for s in range(seeds)
            ]
            found = measure(runs)
            cells.append(f"{spread([found[run]['loss'][str(mark)] for run in runs])} ({lr:g})")
        cells.append(spread([found[run]["accuracy"] for run in runs], factor=100))
        yield row(f"averaging, {optimizer}{', falling' if decay else ''}", *cells)
    for rule in _beside_untrained(learned):
        runs = [Run(rule, rounds=max(MARKS), seed=s) for s in range(seeds)]
        found = measure(runs)
        losses = (spread([found[run]["loss"][str(mark)] for run in runs]) for mark in MARKS)
        yield row(_name(rule), *losses, spread([found[run]["accuracy"] for run in runs], factor=100))
    yield ""
    yield f"Grids: {_told(GRIDS)}."


def _best(
    measure: Measure,
    choices: Iterable[Choice],
    runs: Callable[[Choice], Sequence[Run]],
    score: Callable[[dict[str, Any]], float],
) -> Choice:
    """That one of the choices whose runs score highest together."""
    tried = {choice: runs(choice) for choice in choices}
    found = measure(run for group in tried.values() for run in group)
    return max(tried, key=lambda choice: sum(score(found[run]) for run in tried[choice]))


def _steps(grids: dict[str, tuple[float, ...]]) -> list[tuple[str, float]]:
    """Each optimizer with each step size of its grid."""
    return [(optimizer, lr) for optimizer, grid in grids.items() for lr in grid]


def _low_loss(mark: int) -> Callable[[dict[str, Any]], float]:
    return lambda result: -result["loss"][str(mark)]


def _accuracy(result: dict[str, Any]) -> float:
    accuracy: float = result["accuracy"]
    return accuracy


def _tuned(measure: Measure, optimizer: str, mark: int, decay_after: int = 0) -> float:
    def runs(lr: float) -> list[Run]:
        run = Run("Mean", optimizer, lr, rounds=max(MARKS), split="val", decay_after=decay_after)
        return [replace(run, seed=seed) for seed in TUNING_SEEDS]

    return _best(measure, GRIDS[optimizer], runs, _low_loss(mark))


def paired(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Beside tuned momentum, seed by seed: what differs is the aggregator alone."""
    marks, optimizer = (100, 200), "Nesterov 0.9"
    lrs = {mark: _tuned(measure, optimizer, mark) for mark in marks}

    def losses(run: Run, mark: int) -> list[float]:
        runs = [replace(run, seed=seed, rounds=max(marks)) for seed in range(seeds)]
        found = measure(runs)
        return [found[run]["loss"][str(mark)] for run in runs]

    yield "# Beside tuned momentum, seed by seed"
    yield ""
    yield (
        f"MNIST, 784-20-10 sigmoid, 10 workers, batch 64, no attack. Validation loss, mean over {seeds} seeds, of averaging with {optimizer}"
        f" momentum at the step size that is best of {GRIDS[optimizer]} at that round (found with other seeds), and of learned"
        " aggregators; in brackets the mean difference to it on the same seed, ± its standard error: initial parameters, shards and"
        " batches are the same."
    )
    yield ""
    yield from header("aggregator", *(f"{mark} rounds" for mark in marks))
    bars = {mark: losses(Run("Mean", optimizer, lr), mark) for mark, lr in lrs.items()}
    means = (f"{statistics.mean(bars[mark]):.4f} (step {lrs[mark]:g})" for mark in marks)
    yield row(f"averaging, {optimizer}", *means)
    for rule in learned:
        cells = []
        for mark in marks:
            values = losses(Run(rule), mark)
            differences = [a - b for a, b in zip(values, bars[mark], strict=True)]
            error = statistics.stdev(differences) / len(differences) ** 0.5
            cells.append(f"{statistics.mean(values):.4f} ({statistics.mean(differences):+.4f} ± {error:.4f})")
        yield row(f"`{rule}`", *cells)


def attacked(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Test accuracy under every attack of the suite."""
    yield "# Under attack"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, 10 workers, batch 64, attackers drawn per seed. Test accuracy in % after 100 rounds, mean ± standard"
        f" deviation over {seeds} seeds. Optimizer and learning rate of the hand-made rules (in brackets) are the best of {_told(ATTACKED_GRIDS)} by"
        " mean validation accuracy over these very attacks. Krum is told the attackers, at most 3 (its bound); Zeno is told the true number and"
        f" sees {PUBLIC_SAMPLES} public samples a round, as the learned aggregators with loss information do, who are not told."
        " The ARNNs were trained under none of Reverse, LabelFlip (those with a judge met wrong labels of another kind), Fang, BitFlip, ALIE(1.5), InnerProduct(0.1) and"
        f" Gaussian(200); the RNNs met no attack in training. {WHAT_UNTRAINED_IS}"
    )
    hand_made = {3: ["Krum", "CoordinateMedian", "Zeno"], 7: ["Krum", "Zeno"], 9: ["Zeno"]}
    for number, rules in hand_made.items():
        cells: dict[str, list[str]] = {}
        means: dict[str, list[float]] = {}
        # Without losses nobody can tell a majority of liars from honest workers.
        untrained = [
            UNTRAINED + name for name in learned if name in ("mnist_arnn_judge_lstm", "mnist_arnn_lstm")
        ]
        able = [name for name in learned if number < 5 or "arnn" in name]
        for rule in [*rules, *able, *untrained]:
            name, (optimizer, lr) = _name(rule), ("SGD", 1.0)
            if rule in rules:
                optimizer, lr = _tuned_under_attack(measure, rule, number)
                name = f"{rule} ({optimizer}, {lr:g})"
            runs = {a: [Run(rule, optimizer, lr, a, number, seed=s) for s in range(seeds)] for a in ATTACKS}
            found = measure(run for group in runs.values() for run in group)
            scores = {a: [found[run]["accuracy"] for run in group] for a, group in runs.items()}
            cells[name] = [spread(values, factor=100) for values in scores.values()]
            means[name] = [statistics.mean(values) for values in scores.values()]
        yield ""
        yield f"## {number} of 10 Byzantine"
        yield ""
        yield from header("attack", *cells)
        for index, attack in enumerate(ATTACKS):
            yield row(attack, *(column[index] for column in cells.values()))
        yield row("**worst**", *(f"**{100 * min(column):.1f}**" for column in means.values()))


def _sections(
    measure: Measure,
    learned: list[str],
    seeds: int,
    attacks: Iterable[str],
    columns: dict[str, Column],
    run: Callable[[str, str, Column], Run],
) -> Iterator[str]:
    """A table for each rule of the accuracy of ``run(rule, attack, column)``: a row an attack, a column a value."""
    for rule in learned:
        yield ""
        yield f"## `{rule}`"
        yield ""
        yield from header("attack", *columns)
        for attack in attacks:
            cells = []
            for value in columns.values():
                runs = [replace(run(rule, attack, value), seed=seed) for seed in range(seeds)]
                found = measure(runs)
                cells.append(spread([found[one]["accuracy"] for one in runs], factor=100))
            yield row(attack, *cells)


def disguised(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Attackers who each add noise to what they agreed on, against trust that looks for copies."""
    yield "# Attackers who do not look alike"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, 7 of 10 workers Byzantine, batch 64: the attack, to each of whose rows `Disguise` adds noise of its own,"
        f" so many times as long as the row. Test accuracy in % after 100 rounds, mean ± standard deviation over {seeds} seeds. Rows that"
        " differ by more than a tenth of their length are no copies to `distrust_copies`."
    )

    def run(rule: str, attack: str, noise: float) -> Run:
        return Run(rule, attack=disguised_name(attack, noise), num_byzantine=7)

    attacks = ("Reverse(3)", "InnerProduct(1)", "ALIE(1)", "ALIE(1.5)", "Mimic")
    columns = {"no noise": 0.0, **{f"{noise:g}": noise for noise in NOISES}}
    yield from _sections(measure, learned, seeds, attacks, columns, run)


def late(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Attackers that are honest at first, against trust that adds up."""
    begins, rounds = (0, 20, 50, 100), 200
    yield "# Attackers that wait"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, 10 workers, 7 of them honest until the attack begins, batch 64. Test accuracy in % after"
        f" {rounds} rounds, mean ± standard deviation over {seeds} seeds. The learned aggregators that add trust up over rounds"
        " (`trust_decay`) trust who has been honest for long: this is the price."
    )

    def run(rule: str, attack: str, begin: int) -> Run:
        return Run(rule, attack=attack, num_byzantine=7, first_round=begin, rounds=rounds)

    yield from _sections(measure, learned, seeds, ATTACKS, {f"from round {k}": k for k in begins}, run)


def _tuned_under_attack(measure: Measure, rule: str, number: int) -> tuple[str, float]:
    def runs(step: tuple[str, float]) -> list[Run]:
        return [Run(rule, *step, a, number, seed=TUNING_SEEDS[0], split="val") for a in ATTACKS]

    return _best(measure, _steps(ATTACKED_GRIDS), runs, _accuracy)


def _told(grids: dict[str, tuple[float, ...]]) -> str:
    return "; ".join(f"{optimizer} {grid}" for optimizer, grid in grids.items())


def sizes(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """The same weights with other numbers of workers, at the same fraction of attackers."""
    pools, alone = (5, 10, 20, 50), "none, the honest workers alone"
    yield "# Other numbers of workers"
    yield ""
    yield (
        "The same weights, trained with 10 workers. MNIST, 784-20-10 sigmoid, batch 64, 3 of 5 workers Byzantine (6 of 10, 12 of 20,"
        f" 30 of 50). Test accuracy in % after 100 rounds, mean ± standard deviation over {seeds} seeds. *The honest workers alone* are a"
        " pool of 2, 4, 8 or 20: what a rule could reach that knows who they are."
    )

    def run(rule: str, attack: str, size: int) -> Run:
        number = size * 3 // 5
        if attack in (NO_ATTACK, alone):
            return Run(rule, pool_size=size if attack == NO_ATTACK else size - number)
        return Run(rule, attack=attack, num_byzantine=number, pool_size=size)

    attacks = (NO_ATTACK, alone, *ATTACKS)
    yield from _sections(measure, learned, seeds, attacks, {f"M = {size}": size for size in pools}, run)


def few(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """A lone attacker among a few workers."""
    yield "# Few workers"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, batch 64, one Byzantine worker of three, four or five; the weights were trained with 10 and 5. Test accuracy in % after 100 rounds, mean ±"
        f" standard deviation over {seeds} seeds."
    )

    def run(rule: str, attack: str, size: int) -> Run:
        return Run(rule, attack=attack, num_byzantine=int(attack != NO_ATTACK), pool_size=size)

    pools = {f"M = {size}": size for size in (3, 4, 5)}
    yield from _sections(measure, learned, seeds, (NO_ATTACK, *ATTACKS), pools, run)


def sampled(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Only part of the workers takes part in a round."""
    draws = {
        f"{number} of {size}, {round(size * fraction)} drawn": (size, number, fraction)
        for size, number, fraction in (
            (10, 7, 1.0),
            (10, 3, 0.5),
            (10, 7, 0.5),
            (10, 3, 0.2),
            (10, 7, 0.2),
            (50, 35, 0.2),
        )
    }
    yield "# Part of the workers in a round"
    yield ""
    yield (
        "MNIST, 784-20-10 sigmoid, batch 64: so many of the workers are Byzantine, and so many, drawn anew, take part in each round"
        " (`model.participation`; of 2 of 10 with 7 Byzantine, 47 rounds in a hundred have no honest one). Test accuracy in % after 100 rounds, mean ±"
        f" standard deviation over {seeds} seeds. No training had such rounds."
    )

    def run(rule: str, attack: str, draw: tuple[int, int, float]) -> Run:
        size, number, fraction = draw
        number = 0 if attack == NO_ATTACK else number
        return Run(rule, attack=attack, num_byzantine=number, pool_size=size, participation=fraction)

    yield from _sections(measure, learned, seeds, (NO_ATTACK, *ATTACKS), draws, run)


def transfer(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Other models and fewer classes than in training."""
    yield "# Other models and other classes"
    yield ""
    yield (
        "Weights trained on 784-20-10 with all classes, beside averaging with Nesterov momentum 0.9 at the step size that is best on"
        f" 784-20-10, too. MNIST, 10 workers, batch 64, 100 rounds, no attack: validation loss, mean ± standard deviation over {seeds} seeds."
    )
    yield ""
    tasks: list[tuple[str, tuple[int, ...] | None]] = [
        *((model, None) for model in MODELS if model.startswith("784")),
        ("784-20-10", (0, 1)),
        ("784-20-10", (2, 3, 5, 7, 8)),
    ]
    names = [model if classes is None else f"classes {classes}" for model, classes in tasks]
    yield from header("aggregator", *names)

    def cell(rule: str, optimizer: str, lr: float, task: tuple[str, tuple[int, ...] | None]) -> str:
        runs = [Run(rule, optimizer, lr, model=task[0], classes=task[1], seed=s) for s in range(seeds)]
        found = measure(runs)
        return spread([found[run]["loss"]["100"] for run in runs])

    best = _tuned(measure, "Nesterov 0.9", 100)
    yield row(f"averaging, Nesterov 0.9 ({best:g})", *(cell("Mean", "Nesterov 0.9", best, t) for t in tasks))
    for rule in learned:
        yield row(f"`{rule}`", *(cell(rule, "SGD", 1.0, task) for task in tasks))


def cifar(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """The ConvNet on CIFAR-10: without attack, and with 7 of 10 Byzantine."""
    long, short, marks = 400, 200, (100, 200, 400)
    attacks = ("Reverse(3)", "Gaussian(200)", "SignFlip own", "LabelFlip", "ALIE(1.5)")

    def runs(
        rule: str, optimizer: str, lr: float, attack: str, chosen: Sequence[int], split: str
    ) -> list[Run]:
        attacked = attack != NO_ATTACK
        return [
            Run(
                rule, optimizer, lr, attack, 7 * attacked, model="ConvNet", rounds=short if attacked else long,
                seed=s, split=split, data="CIFAR-10",
            )
            for s in chosen
        ]  # fmt: skip

    def under_attack(rule: str, step: tuple[str, float]) -> list[Run]:
        return [run for a in attacks for run in runs(rule, *step, a, TUNING_SEEDS[:1], "val")]

    def losses(rule: str, optimizer: str, lr: float) -> tuple[list[str], str]:
        group = runs(rule, optimizer, lr, NO_ATTACK, range(seeds), "test")
        found = measure(group)
        by_mark = [spread([found[run]["loss"][str(mark)] for run in group]) for mark in marks]
        return by_mark, spread([found[run]["accuracy"] for run in group], factor=100)

    yield "# CIFAR-10"
    yield ""
    yield (
        f"`ConvNet` (13,018 parameters), 10 workers, batch {CIFAR_BATCH}, mean ± standard deviation over {seeds} seeds. Learning rates in"
        " brackets are the best of a grid on the validation split, with another seed."
    )
    yield ""
    yield "## Without attack"
    yield ""
    yield (
        f"Validation loss, and test accuracy in % after {long} rounds. The baselines' step size is the best *for each column by itself*."
        f" {WHAT_UNTRAINED_IS}"
    )
    yield ""
    yield from header("aggregator", *(f"{mark} rounds" for mark in marks), "test accuracy")
    for optimizer, grid in CIFAR_GRIDS.items():
        tuning = partial(runs, "Mean", optimizer, attack=NO_ATTACK, chosen=TUNING_SEEDS[:1], split="val")
        cells = []
        for column, mark in enumerate(marks):
            lr = _best(measure, grid, tuning, _low_loss(mark))
            by_mark, accuracy = losses("Mean", optimizer, lr)
            cells.append(f"{by_mark[column]} ({lr:g})")
        yield row(f"averaging, {optimizer}", *cells, accuracy)
    for rule in _beside_untrained(learned):
        by_mark, accuracy = losses(rule, "SGD", 1.0)
        yield row(_name(rule), *by_mark, accuracy)
    yield ""
    yield "## 7 of 10 Byzantine"
    yield ""
    yield (
        f"Test accuracy in % after {short} rounds. Optimizer and learning rate of the hand-made rules are the best by mean validation"
        " accuracy over these very attacks. Krum is told 3 attackers (its bound), Zeno all 7 and sees"
        f" {PUBLIC_SAMPLES} public samples a round; what the learned aggregators see is on their cards (`num_samples`, `early_samples`)."
    )
    yield ""
    yield from header("aggregator", *attacks)
    for rule in ("Krum", "Zeno", *(name for name in learned if "arnn" in name)):
        name, (optimizer, lr) = f"`{rule}`", ("SGD", 1.0)
        if rule not in learned:
            optimizer, lr = _best(
                measure, _steps(CIFAR_ATTACKED_GRIDS), partial(under_attack, rule), _accuracy
            )
            name = f"{rule} ({optimizer}, {lr:g})"
        cells = []
        for attack in attacks:
            group = runs(rule, optimizer, lr, attack, range(seeds), "test")
            found = measure(group)
            cells.append(spread([found[run]["accuracy"] for run in group], factor=100))
        yield row(name, *cells)
    yield ""
    yield f"Grids: {_told(CIFAR_GRIDS)}. Under attack: {_told(CIFAR_ATTACKED_GRIDS)}."


def trust(measure: Measure, learned: list[str], seeds: int) -> Iterator[str]:
    """Trust that is learned beside trust by the rule that was made by hand, with the same network."""
    yield "# Whom to trust: learned, and by a rule"
    yield ""
    yield (
        "ARNNs whose trust is learned (`trust learned`): with their judge, and (LSTM) the same network with the rule of trust that was the best one found by hand (its settings are"
        f" at the end). 10 workers; test accuracy in %, mean ± standard deviation over {seeds} seeds. No judge has met Reverse, LabelFlip (but wrong labels of another kind), Fang, BitFlip, MinMax, ALIE(1.5),"
        " InnerProduct(0.1) or Gaussian(200) in training."
    )
    mixed = ("ALIE(1.5)", "LabelFlip", "Reverse(3)")
    cases = {
        "MNIST": [
            (0, NO_ATTACK, "IID"),
            *((number, attack, "IID") for number in (1, 3, 7, 9) for attack in (*ATTACKS, "MinMax")),
            *((0, NO_ATTACK, shards) for shards in ("Dirichlet(0.3)", "ByLabel")),
            *((3, attack, "Dirichlet(0.3)") for attack in mixed),
        ],
        "CIFAR-10": [
            (0, NO_ATTACK, "IID"),
            *((1, attack, "IID") for attack in ("Reverse(10)", "LabelFlip")),
            *((7, attack, "IID") for attack in ("Reverse(3)", "Gaussian(200)", "SignFlip own", "LabelFlip", "ALIE(1.5)", "ALIE(1.5) + 0.2")),
            (0, NO_ATTACK, "Dirichlet(0.3)"),
            (3, "ALIE(1.5)", "Dirichlet(0.3)"),
        ],
    }  # fmt: skip
    for data, model, rounds in (("MNIST", "784-20-10", 100), ("CIFAR-10", "ConvNet", 200)):
        columns = {}
        for rule in learned:
            if rule.startswith(data.lower().replace("-", "")):
                if rule.endswith("lstm"):
                    columns[f"`{rule}`, by the rule"] = f"{rule},{BY_RULE[data]}"
                columns[f"`{rule}`"] = rule
        if not columns:
            continue

        def cell(rule: str, case: tuple[int, str, str], usual: Run) -> list[Run]:
            number, attack, shards = case
            run = replace(usual, rule=rule, attack=attack, num_byzantine=number, partitioner=shards)
            return [replace(run, seed=seed) for seed in range(seeds)]

        usual = Run("", model=model, rounds=rounds, data=data)
        found = measure(
            run for case in cases[data] for rule in columns.values() for run in cell(rule, case, usual)
        )
        yield ""
        yield f"## {data}, {model}, {rounds} rounds"
        yield ""
        yield from header("Byzantine, attack, shards", *columns)
        for case in cases[data]:
            scores = (
                [found[run]["accuracy"] for run in cell(rule, case, usual)] for rule in columns.values()
            )
            yield row(f"{case[0]}, {case[1]}, {case[2]}", *(spread(values, factor=100) for values in scores))
        yield ""
        yield f"The rule: `{BY_RULE[data]}`."


PARTS = {
    part.__name__: part
    for part in (clean, paired, attacked, disguised, late, sizes, few, sampled, transfer, cifar, trust)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument(
        "--learned",
        nargs="*",
        help="shipped weights, those of the data when not given; NAME,setting=value,... with other settings",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each cell")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="file that keeps the results of single runs")
    parser.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    measure = Trainings(partial(train, arguments.root), arguments.processes, arguments.results)
    data = "cifar10" if arguments.part == "cifar" else "mnist"
    learned = arguments.learned
    if learned is None:
        learned = [name for name in pretrained.names() if name.startswith(data) or arguments.part == "trust"]
    if arguments.part == "trust":
        learned = [name for name in learned if settings_of(name)["trust"] == "learned"]
    lines = list(PARTS[arguments.part](measure, learned, arguments.seeds))
    command = f"python benchmarks/learned.py {arguments.part} --root DIR --seeds {arguments.seeds}"
    made_by = f"Made by `{command} --learned {' '.join(learned)}`."
    write_report([*lines, "", made_by], arguments.output)


if __name__ == "__main__":
    main()
