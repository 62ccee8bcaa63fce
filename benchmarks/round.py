"""CPU time of one round of training, beside ByzFL's.

Ten honest workers and three Byzantine ones, batch 64, worker momentum 0.9, SGD. Both sides do the same work on the
same shapes, in turns in one process, with one thread; the figure is the median CPU time of a round
(``time.process_time``), which other load on the machine changes little.

Ours is the package's own pieces: ``WorkerPool.batch`` from a resident uint8 tensor, ``worker_gradients``, attack,
aggregator, optimizer. ByzFL's is the DSGD branch of its ``benchmark/train.py`` without evaluation and files: on
ready tensors, which flatters it, and, with ``--root``, through the PIL pipeline that its benchmark really uses.

    python benchmarks/round.py --root DIR                 # the whole table, about three minutes
    python benchmarks/round.py --models mlp --rounds 200
    python benchmarks/round.py --through-trainer --root DIR   # what Lightning adds to a round
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_agg.aggregators import CoordinateMedian, Krum, Mean, TrimmedMean
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks import ALittleIsEnough, SignFlip
from lightning_agg.attacks.base import Attack
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.data import MNISTPool, Samples, WorkerPool
from lightning_agg.flat import trainable, unflatten
from lightning_agg.gradients import worker_gradients
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules import ParameterServer

HONEST, BYZANTINE, BATCH, MOMENTUM, LR = 10, 3, 64, 0.9, 0.1
SAMPLES = 20_000

MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mlp": ("mlp20", lambda: MLP(10)),
    "cnn": ("cnn_mnist", lambda: ConvNet(10, [20, 50], 5, "valid", 500)),
}
AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "Average": Mean,
    "Krum": lambda: Krum(BYZANTINE),
    "Median": CoordinateMedian,
    "TrMean": lambda: TrimmedMean(BYZANTINE),
}
ATTACKS: dict[str, Callable[[], Attack]] = {
    "SignFlipping": lambda: SignFlip(of="mean"),
    "ALittleIsEnough": lambda: ALittleIsEnough(z=1.5, direction="above", ddof=1),
}

Round = Callable[[], None]


def our_round(model: nn.Module, data: Samples, aggregator: Aggregator, attack: Attack) -> Round:
    """One round with the package's pieces, as ``ParameterServer.training_step`` puts them together."""
    shards = np.array_split(np.arange(len(data)), HONEST)
    pool = WorkerPool(data, shards, BATCH, seed=0)
    model(data.read(torch.arange(1))[0])
    own = trainable(model)
    optimizer = torch.optim.SGD(own.values(), lr=LR)
    momentum = torch.zeros(HONEST, sum(p.numel() for p in own.values()))
    silent = torch.zeros(BYZANTINE, momentum.shape[1])
    step = 0

    def round_() -> None:
        nonlocal step
        inputs, targets, weights = pool.batch(range(HONEST), step)
        step += 1
        gradients, _ = worker_gradients(model, inputs, targets, weights=weights)
        momentum.mul_(MOMENTUM).add_(gradients, alpha=1 - MOMENTUM)
        aggregate = aggregator(torch.cat([momentum, attack(momentum, silent)]))
        for p, gradient in zip(own.values(), unflatten(aggregate, own).values(), strict=True):
            p.grad = gradient
        optimizer.step()

    return round_


class MLP20(nn.Module):
    """The network of the first paper, in the form that ByzFL's models have."""

    def __init__(self) -> None:
        super().__init__()
        self._f1, self._f2 = nn.Linear(784, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities."""
        return F.log_softmax(self._f2(torch.sigmoid(self._f1(x.view(-1, 784)))), dim=1)


def byzfl_round(model: str, dataset: Any, targets: Tensor, aggregator: str, attack: str) -> Round:
    """One round with ByzFL's classes."""
    import byzfl.fed_framework.models as models
    from byzfl import ByzantineClient, Client, DataDistributor, Server
    from torch.utils.data import Subset

    models.mlp20 = MLP20
    dataset.targets = targets
    split = {"data_distribution_name": "iid", "nb_honest": HONEST, "batch_size": BATCH}
    loaders = DataDistributor(
        {**split, "data_loader": Subset(dataset, list(range(len(targets))))}
    ).split_data()
    common = {
        "model_name": model,
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": LR,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }
    honest = {"loss_name": "NLLLoss", "LabelFlipping": False, "momentum": MOMENTUM, "nb_labels": 10}
    clients = [
        Client({**common, **honest, "store_per_client_metrics": False, "training_dataloader": loader})
        for loader in loaders
    ]
    told = {"f": BYZANTINE} if aggregator in ("Krum", "TrMean") else {}
    rule = {"aggregator_info": {"name": aggregator, "parameters": told}, "pre_agg_list": []}
    server = Server({**common, **rule, "test_loader": loaders[0]})
    attacker = ByzantineClient({"name": attack, "f": BYZANTINE, "parameters": {}})

    def round_() -> None:
        for client in clients:
            client.compute_gradients()
        gradients = [client.get_flat_gradients_with_momentum() for client in clients]
        server.update_model_with_gradients(gradients + attacker.apply_attack(gradients))
        state = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(state)

    return round_


def cpu_ms(rounds: list[Round], repeats: int, turns: int = 5) -> list[float]:
    """Median CPU milliseconds of each, taken in turns of several rounds, the first of a turn left out.

    Alternating round by round would charge each side for memory that the other made the allocator hand back.
    """
    times: list[list[float]] = [[] for _ in rounds]
    for _ in range(turns):
        for taken, round_ in zip(times, rounds, strict=True):
            round_()
            for _ in range(-(-repeats // turns)):
                start = time.process_time()
                round_()
                taken.append(1000 * (time.process_time() - start))
    return [statistics.median(taken) for taken in times]


def table(models: list[str], root: str | None, repeats: int | None) -> None:
    """Print a row for each model, aggregator and attack, and for the real files."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (SAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    random = Samples(pixels, torch.randint(10, (SAMPLES,), generator=generator))
    print("| data | model | aggregator | attack | ByzFL, CPU ms | ours, CPU ms | ratio |")
    print("|---|---|---|---|---|---|---|")

    def row(source: str, model: str, aggregator: str, attack: str, data: Samples, dataset: Any) -> None:
        name, make = MODELS[model]
        theirs = byzfl_round(name, dataset, data.labels, aggregator, attack)
        ours = our_round(make(), data, AGGREGATORS[aggregator](), ATTACKS[attack]())
        a, b = cpu_ms([theirs, ours], repeats or {"mlp": 200, "cnn": 10}[model])
        print(
            f"| {source} | {name} | {aggregator} | {attack} | {a:.1f} | {b:.1f} | {a / b:.1f} |", flush=True
        )

    for model in models:
        for aggregator in AGGREGATORS:
            for attack in ATTACKS:
                ready = torch.utils.data.TensorDataset(random.normalize(pixels), random.labels)
                row("ready tensors", model, aggregator, attack, random, ready)
    if root is not None:
        for model in models:
            for aggregator in ("Average", "TrMean"):
                files = mnist(root)
                data = Samples(files.data[:, None], files.targets)
                row("MNIST files", model, aggregator, "SignFlipping", data, files)


def mnist(root: str) -> Any:
    """MNIST as ByzFL's benchmark reads it: PIL, to tensor, normalise, sample by sample."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    return datasets.MNIST(root, train=True, transform=transform)


class Stopwatch(L.Callback):
    """CPU time from batch end to batch end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Take the time."""
        self.ends.append(time.process_time())

    def median(self) -> float:
        """Milliseconds of a round, the first tenth left out."""
        laps = np.diff(self.ends[len(self.ends) // 10 :])
        return 1000 * float(np.median(laps))


def through_trainer(models: list[str], root: str, repeats: int | None) -> None:
    """Print what a round costs in ``Trainer.fit``, beside the same pieces in a bare loop."""
    print("| model | bare loop, CPU ms | Trainer, CPU ms | difference |")
    print("|---|---|---|---|")
    for model in models:
        steps = repeats or {"mlp": 1000, "cnn": 20}[model]
        stopwatch = Stopwatch()
        injection = ByzantineInjection(SignFlip(of="mean"), BYZANTINE)
        trainer = L.Trainer(
            accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, callbacks=[injection, stopwatch],
        )  # fmt: skip
        module = ParameterServer(TrimmedMean(BYZANTINE), lambda _, make=MODELS[model][1]: make())
        data = MNISTPool(root, pool_size=HONEST + BYZANTINE, batch_size=BATCH)
        trainer.fit(module, data)
        bare = cpu_ms([bare_step(module, data, injection)], steps)[0]
        with_trainer = stopwatch.median()
        print(
            f"| {MODELS[model][0]} | {bare:.2f} | {with_trainer:.2f} | {with_trainer - bare:.2f} |",
            flush=True,
        )


def bare_step(module: ParameterServer, data: MNISTPool, injection: ByzantineInjection) -> Round:
    """The round of :func:`through_trainer` without Lightning: every one of the M workers computes."""
    pool, model, attack = data.pool, module.model, SignFlip(of="mean")
    own = trainable(model)
    optimizer = torch.optim.SGD(own.values(), lr=LR)
    byzantine = torch.zeros(len(pool), dtype=torch.bool)
    byzantine[sorted(injection.byzantine)] = True
    step = 0

    def round_() -> None:
        nonlocal step
        inputs, targets, weights = pool.batch(range(len(pool)), step)
        step += 1
        gradients, _ = worker_gradients(model, inputs, targets, weights=weights)
        gradients[byzantine] = attack(gradients[~byzantine], gradients[byzantine])
        aggregate = module.aggregator(gradients)
        for p, gradient in zip(own.values(), unflatten(aggregate, own).values(), strict=True):
            p.grad = gradient
        optimizer.step()

    return round_


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--root", help="folder that holds MNIST/raw: also measure on the real files")
    parser.add_argument("--rounds", type=int, help="rounds per row (default: 200 for mlp, 10 for cnn)")
    parser.add_argument(
        "--through-trainer", action="store_true", help="measure Lightning's share; needs --root"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.zeros(30 * 2**18)  # 30 MiB, freed at once: glibc then keeps what it is given back, as in a long run
    if not arguments.through_trainer:
        table(arguments.models, arguments.root, arguments.rounds)
    elif arguments.root is None:
        parser.error("--through-trainer needs --root")
    else:
        warnings.simplefilter("ignore")
        through_trainer(arguments.models, arguments.root, arguments.rounds)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
