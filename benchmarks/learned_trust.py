"""Whom to trust, learned: a small recurrent judge beside the rule by which the shipped ARNNs trust workers.

The shipped aggregators learn the step; whom they trust is a rule made by hand (``trust losses`` of ``Recurrent`` and the settings
beside it). Here a GRU of 16 units, the same for every worker, reads what that rule reads (descents of trial steps, cosines
with the public gradient and its running sum, copies) and what else the rows tell (cosines with each other, lengths), and gives each row
a weight between 0 and 1 in its place. It is trained, off line, on episodes that the rule by hand has played: its loss is the
logarithm of the squared distance of the weighted mean from the mean of the honest rows, in parts of the latter's
length, and 0.3 of the cross entropy of honest or not. Both need the rows' inner products only, ``(M, M)`` of a round.

    python benchmarks/learned_trust.py --root DIR --output docs/learned_trust.md

``--episodes FOLDER`` keeps episodes, judges and results, so that what is done is not done again.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import learned
import numpy as np
import torch
from reports import write_report
from torch import Tensor, nn
from torch.nn import functional as F
from training_runs import Marks, Trainings, fitted, quiet_trainer

from lightning_agg.aggregators import Recurrent
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import row_lengths
from lightning_agg.aggregators.worker_features import LARGEST_DESCENT, Features, Seen, WorkerFeatures
from lightning_agg.aggregators.worker_trust import LIMIT, copies_and_same, effective_number, positive
from lightning_agg.attacks import (
    ALittleIsEnough,
    Disguise,
    Drop,
    Gaussian,
    InnerProduct,
    LabelFlip,
    Mimic,
    MinMax,
    SignFlip,
)
from lightning_agg.attacks.base import Attack
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules import ParameterServer
from lightning_agg.partitioners import IID, ByLabel, Dirichlet
from lightning_agg.sweep.markdown import header, row, spread

UNITS, EVIDENCE = 16, 18
EPOCHS, EPISODES_AT_ONCE, LR = 60, 12, 0.005
FLOOR = 0.05
"""Squared relative errors far below this count as none."""
NUM_EPISODES = {"MNIST": 130, "CIFAR-10": 50}
NUM_SHIFTED = {"MNIST": 0, "CIFAR-10": 24}
FIRST_SEED = {"MNIST": 0, "CIFAR-10": 5000}
SHIPPED = {"MNIST": "mnist_arnn_lstm", "CIFAR-10": "cifar10_arnn_lstm"}
MODELS = {"MNIST": MLP, "CIFAR-10": ConvNet}
ROUNDS = {"MNIST": 100, "CIFAR-10": 200}
BY_HAND, JUDGED = "the rule by hand", "the judge"
PARTITIONERS = {
    "IID": IID(seed=0),
    "Dirichlet(0.3)": Dirichlet(alpha=0.3, min_size=128),
    "ByLabel": ByLabel(),
}


class LabelShift(LabelFlip):
    """Class y is called y + k, modulo the number of classes: wrong labels for training, as ``LabelFlip`` is kept for the test."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def poison(self, targets: Tensor, num_classes: int) -> Tensor:
        """The labels, shifted."""
        return (targets + self.k) % num_classes


SHIFTS: dict[str, Callable[[], Attack]] = {f"LabelShift({k})": partial(LabelShift, k) for k in range(1, 10)}
MET: dict[str, Callable[[], Attack]] = {
    "Gaussian(1)": lambda: Gaussian(std=1.0),
    "Gaussian(1) shared": lambda: Gaussian(std=1.0, shared=True),
    "Gaussian(0.03)": lambda: Gaussian(std=0.03),
    "SignFlip(3) own": lambda: SignFlip(of="own", scale=3.0),
    "InnerProduct(1)": lambda: InnerProduct(scale=1.0),
    "Drop": Drop,
    "ALIE(0.5)": lambda: ALittleIsEnough(z=0.5),
    "ALIE(1)": lambda: ALittleIsEnough(z=1.0),
    "ALIE(2)": lambda: ALittleIsEnough(z=2.0),
    "Mimic": Mimic,
    "ALIE(1) + 0.3": lambda: Disguise(ALittleIsEnough(z=1.0), 0.3),
    "ALIE(2) + 0.2": lambda: Disguise(ALittleIsEnough(z=2.0), 0.2),
    "InnerProduct(0.5) + 0.3": lambda: Disguise(InnerProduct(scale=0.5), 0.3),
    "Mimic + 0.3": lambda: Disguise(Mimic(), 0.3),
    "SignFlip(0.5) own + 0.2": lambda: Disguise(SignFlip(of="own", scale=0.5), 0.2),
}
"""Attacks of the episodes that judges are trained on."""
ATTACKS: dict[str, Callable[[], Attack]] = {
    **learned.ATTACKS,
    **learned.DISGUISED,
    **MET,
    **SHIFTS,
    "MinMax": MinMax,
}
Value = TypeVar("Value")


class Judge(nn.Module):
    """Evidence on each worker and what is remembered of it -> the logit of its weight; the same for all, who are seen on average."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(EVIDENCE, UNITS)
        self.gru = nn.GRUCell(3 * UNITS, UNITS)
        self.out = nn.Linear(2 * UNITS, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, evidence: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., M, EVIDENCE)`` and ``(..., M, UNITS)`` -> ``(..., M)`` and the new memory."""
        seen = torch.tanh(self.enc(evidence))
        others = [part.mean(-2, keepdim=True).expand_as(part) for part in (seen, memory)]
        joined = torch.cat([seen, *others], -1)
        memory = self.gru(joined.flatten(end_dim=-2), memory.flatten(end_dim=-2)).view_as(memory)
        return self.out(torch.cat([memory, seen], -1))[..., 0], memory

    def episodes(self, evidence: Tensor) -> Tensor:
        """Logits ``(B, T, M)`` of whole episodes ``(B, T, M, EVIDENCE)``."""
        memory = evidence.new_zeros(len(evidence), evidence.shape[2], UNITS)
        logits = []
        for step in range(evidence.shape[1]):
            logit, memory = self(evidence[:, step], memory)
            logits.append(logit)
        return torch.stack(logits, 1)


@dataclass
class Bench:
    """Where a judge sits: what it remembers of an episode, and what is written down of it.

    Args:
        judge: Whose weights count; those of the rule by hand when ``None``.
        byzantine: Who attacks in a round.
        step: The round.
        sums: Running sums of the evidence on each worker, ``(M,)`` each.
        memory: The judge's, ``(M, UNITS)``.
        same: Rows that are one, ``(M, M)``.
        log: Evidence, inner products, who is honest, and the trust by hand, of each round; not kept when ``None``.
    """

    judge: Judge | None = None
    byzantine: Callable[[int], set[int]] = lambda step: set()
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    memory: Tensor = field(default_factory=lambda: torch.zeros(0))
    same: Tensor = field(default_factory=lambda: torch.zeros(0))
    log: list[tuple[Tensor, ...]] | None = None

    def add(self, name: str, value: Tensor, decay: float = 1.0) -> Tensor:
        """A running sum."""
        self.sums[name] = value if self.step == 0 else decay * self.sums[name] + value
        return self.sums[name]


@dataclass(frozen=True)
class JudgedFeatures(WorkerFeatures):
    """Those of a shipped aggregator, whose rows a judge weighs; all workers take part, with finite rows."""

    bench: Bench

    def __call__(self, gradients: Tensor, context: Context, seen: Seen, step: int) -> Features:
        """As without a judge."""
        self.bench.step = step
        assert context.public_losses is not None
        assert context.public_gradient is not None
        context = replace(
            context,
            public_losses=_once(context.public_losses),
            public_gradient=_once(context.public_gradient),
        )
        return super().__call__(gradients, context, seen, step)

    def _trust(self, gradients: Tensor, context: Context, seen: Seen) -> tuple[Tensor, Seen]:
        trust, after = super()._trust(gradients, context, seen)
        bench, by_hand = self.bench, trust
        if bench.judge is None and bench.log is None:
            return trust, after
        evidence = self._evidence(gradients, context, after.direction)
        if bench.judge is not None:
            if bench.step == 0:
                bench.memory = torch.zeros(len(gradients), UNITS)
            logits, bench.memory = bench.judge(evidence, bench.memory)
            trust = logits.sigmoid()
        if bench.log is not None:
            liars = bench.byzantine(bench.step)
            honest = torch.tensor([worker not in liars for worker in range(len(gradients))])
            rows = gradients.double()
            bench.log.append((evidence.half(), (rows @ rows.T).float(), honest, by_hand))
        return trust, after

    def _evidence(self, rows: Tensor, context: Context, direction: Tensor) -> Tensor:
        bench, (m, _) = self.bench, rows.shape
        descents = context.descents(rows, self.trial_step, self.num_samples).to(rows.dtype)
        descents = descents.nan_to_num(-LARGEST_DESCENT).clamp(-LARGEST_DESCENT, LARGEST_DESCENT)
        all_descents, late_descents = bench.add("all", descents), bench.add("late", descents, 0.9)
        public = context.gradient(self.num_samples).to(rows).nan_to_num(0.0, 0.0, 0.0)
        length, lengths = torch.linalg.vector_norm(public), row_lengths(rows).to(rows)
        units = rows / positive(lengths)[:, None]
        with_public = units @ (public / positive(length))
        with_sum = units @ (direction / positive(torch.linalg.vector_norm(direction)))
        agreed = bench.add("agreed", with_sum)
        cosines = units @ units.T
        own = torch.eye(m, dtype=torch.bool)
        middle = cosines.masked_fill(own, 9.0).sort(1).values[:, (m - 2) // 2]
        copies, bench.same = copies_and_same(rows)
        log_lengths = positive(lengths).log()
        evidence = [
            _relative(descents),
            _relative(all_descents),
            _relative(late_descents),
            with_public,
            with_sum,
            _relative(agreed),
            _relative(bench.add("public", with_public, 0.95)),
            middle,
            (cosines.sum(1) - cosines.diagonal()) / (m - 1),
            _relative(bench.add("middle", middle)),
            (log_lengths - log_lengths.median()).clamp(-LIMIT, LIMIT),
            (log_lengths - positive(length).log()).clamp(-LIMIT, LIMIT),
            1 / copies.sum(1),
            cosines.masked_fill(own, -2.0).max(1).values,
            torch.full((m,), math.log1p(bench.step) / 5),
            (lengths * with_public / positive(length)).clamp(-LIMIT, LIMIT),
            torch.minimum(_relative(all_descents), _relative(agreed)),
            torch.full((m,), math.log(m) / 3),
        ]
        return torch.stack(evidence, 1)

    def _weighed(self, gradients: Tensor, trust: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.bench.judge is None:
            return super()._weighed(gradients, trust)
        weights = trust / positive(trust.max())
        return trust, weights, effective_number(weights, self.bench.same)


def _relative(x: Tensor) -> Tensor:
    return (x / (x.max().abs() + 1e-12)).clamp(-LIMIT, LIMIT)


def _once(function: Callable[..., Value]) -> Callable[..., Value]:
    """What the first call gives, for all."""
    known: list[Value] = []

    def result(*arguments: Any) -> Value:
        if not known:
            known.append(function(*arguments))
        return known[0]

    return result


@dataclass(frozen=True)
class Run:
    """One training, as of :mod:`learned`."""

    data: str
    pool_size: int
    num_byzantine: int
    attack: str
    rounds: int
    seed: int
    first_round: int = 0
    partitioner: str = "IID"
    batch_size: int = 0
    judge: str | None = None
    log: str | None = None


def train(root: str, run: Run) -> float:
    """Accuracy (0 to 1) on the validation split at the end; what the bench has seen goes to a file, if any is named."""
    torch.set_num_threads(1)
    judge = None
    if run.judge is not None:
        judge = Judge().requires_grad_(False)
        judge.load_state_dict(torch.load(run.judge))
    rule = Recurrent(weights=SHIPPED[run.data])
    bench = Bench(judge, log=None if run.log is None else [])
    rule.features = JudgedFeatures(**asdict(rule.features), bench=bench)
    module = ParameterServer(
        rule, MODELS[run.data], partial(torch.optim.SGD, lr=1.0), gradient_samples=0, seed=run.seed
    )
    bench.byzantine = lambda step: set(module.byzantine()) if step >= run.first_round else set()
    attack = ATTACKS[run.attack]() if run.num_byzantine else None
    injection = ByzantineInjection(attack, run.num_byzantine, first_round=run.first_round, seed=run.seed)
    marks = Marks()
    trainer = quiet_trainer(run.rounds, [injection, marks], val_every=run.rounds)
    shards, batch_size = PARTITIONERS[run.partitioner], run.batch_size or None
    # Not the shared ones: there are as many as episodes.
    data = learned.make_pool(run.data, root, run.pool_size, None, run.seed, shards, batch_size)
    accuracy: float = fitted(trainer, module, data, marks, "val")["accuracy"]
    if bench.log is not None:
        torch.save([torch.stack(parts) for parts in zip(*bench.log, strict=True)], run.log)
    return accuracy


def episodes(data: str, folder: Path) -> list[Run]:
    """Those that a judge is trained on: pools, shards, attacks, and when they begin, are drawn."""
    runs = []
    for index in range(NUM_EPISODES[data]):
        seed = FIRST_SEED[data] + index
        rng = np.random.default_rng(seed)
        pool_size = int(rng.choice([10, 10, 10, 5, 16] if data == "MNIST" else [10, 10, 10, 6]))
        share = rng.choice([0, 0.3, 0.5, 0.7, 0.7, 0.9])
        attack = list(MET)[int(rng.integers(len(MET)))]
        rounds = int(rng.choice([60, 120])) if data == "MNIST" else 120
        first_round = int(rng.choice([0, 0, 0, 20, 50]))
        shards = ["IID", "IID", "IID", "Dirichlet(0.3)", "ByLabel"]
        runs.append(
            Run(
                data,
                pool_size,
                min(round(share * pool_size), pool_size - 1),
                attack,
                rounds,
                1000 + seed,
                first_round,
                str(rng.choice(shards)) if pool_size == 10 else "IID",
                int(rng.choice([16, 64, 64])) if data == "MNIST" else 16,
                log=str(folder / f"{data}_{index}.pt"),
            )
        )
    for index in range(NUM_SHIFTED[data]):
        rng = np.random.default_rng(9000 + index)
        number, attack = int(rng.choice([3, 5, 7, 7, 9])), f"LabelShift({rng.integers(1, 10)})"
        first_round = int(rng.choice([0, 0, 20]))
        log = str(folder / f"{data}_shifted_{index}.pt")
        runs.append(Run(data, 10, number, attack, 120, 7000 + index, first_round, batch_size=16, log=log))
    return runs


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batches(played: list[list[Tensor]]) -> Iterator[Batch]:
    """Episodes of the same size, in an order that is drawn."""

    def size(episode: list[Tensor]) -> tuple[int, ...]:
        return tuple(episode[0].shape)

    for _, group in groupby(sorted(played, key=size), key=size):
        alike = list(group)
        order = torch.randperm(len(alike)).tolist()
        for start in range(0, len(order), EPISODES_AT_ONCE):
            chosen = [alike[k] for k in order[start : start + EPISODES_AT_ONCE]]
            evidence, products, honest, by_hand = (torch.stack(parts) for parts in zip(*chosen, strict=True))
            yield evidence.float(), products, honest.float(), by_hand


def log_error(weights: Tensor, products: Tensor, honest: Tensor) -> Tensor:
    """Log of the squared distance of the mean by ``weights`` ``(..., M)`` from that of the honest rows, by its squared length."""
    shares, mean = (w / w.sum(-1, keepdim=True).clamp_min(1e-9) for w in (weights, honest))
    apart = shares - mean
    error, size = (torch.einsum("...i,...ij,...j->...", x, products, x) for x in (apart, mean))
    return torch.log(FLOOR + (error / size.clamp_min(1e-20)).clamp_min(0))


def train_judge(runs: list[Run], file: Path) -> tuple[float, float]:
    """Train on six of seven episodes; mean log error on the others, of the rule by hand and of the judge."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    played = [torch.load(str(run.log)) for run in runs]
    rest = [episode for index, episode in enumerate(played) if index % 7 != 3]
    judge = Judge()
    optimizer = torch.optim.Adam(judge.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for evidence, products, honest, _ in sorted(batches(rest), key=lambda _: float(torch.rand(()))):
            logits = judge.episodes(evidence)
            errors = log_error(logits.sigmoid() + 1e-6, products, honest)
            loss = errors.mean() + 0.3 * F.binary_cross_entropy_with_logits(logits, honest)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    torch.save(judge.state_dict(), file)
    by_hand, judged = [], []
    with torch.no_grad():
        for evidence, products, honest, trust in batches(played[3::7]):
            by_hand.append(log_error((2 * trust).clamp(0, 1) + 1e-6, products, honest).flatten())
            judged.append(log_error(judge.episodes(evidence).sigmoid() + 1e-6, products, honest).flatten())
    return float(torch.cat(by_hand).mean()), float(torch.cat(judged).mean())


def cases(data: str) -> list[tuple[int, str, str]]:
    """Number of attackers of ten, attack, shards."""
    if data == "CIFAR-10":
        attacks = ["Reverse(3)", "LabelFlip", "ALIE(1.5)", "ALIE(1.5) + 0.2"]
        return [(0, learned.NO_ATTACK, "IID"), *((7, attack, "IID") for attack in attacks)]
    attacks = [
        "Reverse(3)",
        "LabelFlip",
        "ALIE(1.5)",
        "Fang",
        "BitFlip",
        "InnerProduct(0.1)",
        "MinMax",
        "Mimic",
    ]
    return [
        (0, learned.NO_ATTACK, "IID"),
        *((7, attack, "IID") for attack in attacks),
        *((9, attack, "IID") for attack in ("LabelFlip", "Fang")),
        (0, learned.NO_ATTACK, "ByLabel"),
        (3, "ALIE(1.5)", "Dirichlet(0.3)"),
    ]


def report(root: str, folder: Path, processes: int, seeds: int) -> Iterator[str]:
    """The page."""
    measure = Trainings(partial(train, root), processes, folder / "results.jsonl")
    yield "# Learning whom to trust"
    yield ""
    yield (
        "Does the rule by which the shipped ARNNs trust workers have to be made by hand? A GRU of 16 units in its place"
        f" ({sum(p.numel() for p in Judge().parameters()):,} weights, the same for every worker) reads the same descents and cosines, and the rows' cosines with each"
        f" other and lengths. The step is that of the shipped weights. It was trained on {NUM_EPISODES['MNIST']} episodes of MNIST and {NUM_EPISODES['CIFAR-10']}"
        f" of CIFAR-10 (one judge each), and {NUM_SHIFTED['CIFAR-10']} of CIFAR-10 with shifted labels, that the rule by hand has played, with 0 to 9 of 10 Byzantine (also other pools, other shards, attackers who wait); *unmet*: the"
        " attack was in none of them. Not shipped yet: how it does in long trainings, in other pools and against attackers who know it has not been measured."
    )
    yield ""
    yield (
        f"Accuracy in % on the validation split after {ROUNDS['MNIST']} rounds (CIFAR-10: {ROUNDS['CIFAR-10']}), mean ± standard deviation over {seeds} seeds."
    )
    for data in NUM_EPISODES:
        runs = episodes(data, folder)
        measure(run for run in runs if not Path(str(run.log)).exists())
        file = folder / f"{data}_judge.pt"
        known = file.with_suffix(".json")
        if not known.exists():
            known.write_text(json.dumps(train_judge(runs, file)))
        by_hand, judged = json.loads(known.read_text())
        yield ""
        yield f"## {data}"
        yield ""
        yield (
            f"Squared distance of the aggregate from the honest rows' mean, in parts of that mean's squared length ({FLOOR:g} and less counts as {FLOOR:g}), geometric mean"
            f" over the rounds of episodes kept apart: {math.exp(by_hand):.2g} by hand, {math.exp(judged):.2g} by the judge."
        )
        yield ""
        yield from header("of 10 Byzantine, attack, shards", BY_HAND, JUDGED)
        for number, attack, shards in cases(data):
            cells = []
            for judge in (None, str(file)):
                wanted = [
                    Run(data, 10, number, attack, ROUNDS[data], 200 + seed, partitioner=shards, judge=judge)
                    for seed in range(seeds)
                ]
                cells.append(spread(list(measure(wanted).values()), factor=100))
            known_to_it = "" if attack in MET or number == 0 else " (unmet)"
            yield row(f"{number}, {attack}{known_to_it}, {shards}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of the MNIST and CIFAR-10 files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--episodes", type=Path, default=Path("logs/learned_trust"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.episodes.mkdir(parents=True, exist_ok=True)
    page = report(arguments.root, arguments.episodes, arguments.processes, arguments.seeds)
    command = f"python benchmarks/learned_trust.py --root DIR --seeds {arguments.seeds}"
    write_report([*page, "", f"Made by `{command}`."], arguments.output)


if __name__ == "__main__":
    main()
