"""medianSGD and signSGD on heterogeneous data, and the noise that mends them.

    python benchmarks/heterogeneous.py ushape                                              # about a minute
    python benchmarks/heterogeneous.py rates --output docs/noise_rates.md                  # about ten minutes
    python benchmarks/heterogeneous.py mnist --root DIR --pool-size 5 --output docs/noise_mnist_5.md
    python benchmarks/heterogeneous.py cifar --root DIR --output docs/noise_cifar.md
    python benchmarks/heterogeneous.py attackers --root DIR --output docs/noise_attackers.md
    python benchmarks/heterogeneous.py learned --root DIR --output docs/noise_learned.md

``ushape``: the mean squared gradient in the long run on the three quadratics of Chen et al. (NeurIPS 2020, Figure 1) for
each noise b, measured in runs of ``ParameterServer`` and exact (``exact_curves.py``), and the best b that theory predicts.

``rates``: the mean squared gradient over all rounds, with b and learning rate as Theorems 5 and 6 ask for, over three
decades of rounds T and of coordinates d. Beside the theorems' exponents, which are those of an upper bound, stand the
slopes of the runs and of the exact values. D_f does not grow with d: one coordinate starts away from the optimum.

``mnist``: exclusive labels, 784-128-10 with ReLU, 100 images a worker: loss, norms of the gradient and of the median
gradient (means over the last half of the validations), accuracies at the end, mean ± standard deviation over seeds.

``cifar``: the same on CIFAR-10 with noise relative to each tensor's gradients and the paper's schedule, a small network.

``attackers``: how many attackers the noisy rules survive as b grows, on quadratics beside the exact laws and on MNIST.

``learned``: whether learned aggregators close the gap between median and mean without noise.

``--results FILE`` keeps the results of single runs, so that nothing is computed twice.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import noise_attackers
import noise_tables
from noise_images import train
from noise_quadratics import measured_rate, rates, ushape
from reports import write_report
from training_runs import Trainings, quiet

WEIGHTS = ["mnist_rnn_paper_lstm", "mnist_rnn_lstm", "mnist_arnn_lstm", "mnist_arnn_judge_lstm"]
MODELS = ["784-20-10 sigmoid", "784-20-10 ReLU"]
MADE_WITH = ("pool_size", "rounds", "longest", "seed", "seeds")


def lines(arguments: argparse.Namespace) -> Iterator[str]:
    """The report of a command."""
    yield from table(arguments)
    options = {"root": "DIR"} if "root" in arguments else {}
    options |= {name: value for name, value in vars(arguments).items() if name in MADE_WITH}
    text = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    yield ""
    yield f"Made by `python benchmarks/heterogeneous.py {arguments.command} {text}`."


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """What it measures."""
    results: Path | None = arguments.results
    if arguments.command == "rates":
        yield from rates(Trainings(measured_rate, results_file=results), arguments.longest, arguments.seed)
        return
    trainings = Trainings(partial(train, arguments.root), arguments.processes, results)
    if arguments.command == "mnist":
        yield from noise_tables.mnist(trainings, arguments.pool_size, arguments.rounds, arguments.seeds)
    elif arguments.command == "cifar":
        yield from noise_tables.cifar(trainings, arguments.rounds, arguments.seeds)
    elif arguments.command == "attackers":
        pushes = Trainings(noise_attackers.long_run, arguments.processes, results)
        yield from noise_attackers.report(pushes, trainings, arguments.seeds, arguments.figure)
    else:
        yield from noise_tables.learned(
            trainings, arguments.weights, arguments.models, arguments.rounds, arguments.seeds
        )


def main() -> None:
    quiet()
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
    _add_files(command)
    for name, data, rounds, seeds in (
        ("mnist", "MNIST/raw", 3000, 5),
        ("cifar", "cifar-10-batches-py", 280, 2),
        ("attackers", "MNIST/raw", None, 1),
        ("learned", "MNIST/raw", 200, 5),
    ):
        command = commands.add_parser(name)
        command.add_argument("--root", required=True, help=f"folder that holds {data}")
        command.add_argument("--seeds", type=int, default=seeds)
        command.add_argument("--processes", type=int, default=1, help="runs at the same time")
        if rounds is not None:
            command.add_argument("--rounds", type=int, default=rounds)
        if name == "mnist":
            command.add_argument(
                "--pool-size", type=int, default=5, help="workers: 5 with two labels each, 10 with one"
            )
        if name == "attackers":
            command.add_argument("--figure", type=Path, default=Path("docs/noise_attackers.png"))
        if name == "learned":
            command.add_argument("--weights", nargs="+", default=WEIGHTS, help="shipped ones, or files")
            command.add_argument("--models", nargs="+", default=MODELS)
        _add_files(command)
    arguments = parser.parse_args()
    if arguments.command == "ushape":
        ushape(arguments.output, arguments.copies, arguments.seed)
    else:
        write_report(lines(arguments), arguments.output, kept_from="## What holds")


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument("--results", type=Path, help="file that keeps the results of single runs")
    command.add_argument("--output", type=Path, help="file to write; standard output if not given")


if __name__ == "__main__":
    main()
