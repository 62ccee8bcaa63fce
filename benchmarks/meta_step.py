"""One meta-step beside that of the usual PyTorch port: CPU time and peak memory.

A window of 20 rounds of a 784-20-10 sigmoid MLP (d = 15,910), one worker, batch 128, a two-layer LSTM of 20 units. The
port is written as those in circulation are: two ``nn.LSTMCell`` over all coordinates, and a ``loss.backward(retain_graph=True)``
in each round for the gradient, which goes back through all the rounds before it: quadratic in the window. The last row
has ten workers, whose ten inputs of the network are stored.

CPU time is the median of nine windows in one thread, after three. Memory is what a window of 20 rounds adds to the most that a fresh
process held resident after a window of one round, by the 19 rounds; whatever does not grow with the rounds, such as the
model, the network's state and the libraries' own buffers, is left out.

    python benchmarks/meta_step.py
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lightning_agg import flat
from lightning_agg.aggregators import Context, Recurrent
from lightning_agg.estimators import Replay, UnrolledGraph
from lightning_agg.estimators.base import Estimator
from lightning_agg.gradients import worker_gradients
from lightning_agg.models import MLP
from lightning_agg.unroll import InnerProblem, InnerState, Round

ROUNDS, BATCH, WARM, REPEATS = 20, 128, 3, 9

Step = Callable[[int], object]
"""A window of so many rounds."""


def batches(workers: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(ROUNDS + 1, workers, BATCH, 1, 28, 28, generator=rng)
    return x, torch.randint(10, (ROUNDS + 1, workers, BATCH), generator=rng)


def model() -> nn.Module:
    torch.manual_seed(0)
    network = MLP(10)
    network(torch.zeros(1, 1, 28, 28))
    return network


class Workers(InnerProblem):
    """The training of the MLP by workers on given batches."""

    def __init__(self, workers: int) -> None:
        self.model = model()
        self.x, self.y = batches(workers)

    def round(self, parameters: Tensor, episode: int, step: int) -> Round:
        """The workers' gradients on the batches of the round."""
        values = flat.unflatten(parameters, flat.trainable(self.model))
        rows, losses = worker_gradients(self.model, self.x[step], self.y[step], parameters=values)
        return Round(rows, torch.ones(len(rows)).bool(), rows.mean(0), losses.mean(), Context())

    def differentiable_round(self, parameters: Tensor, episode: int, step: int, second_order: bool) -> Round:
        """The same with graphs."""
        values = flat.unflatten(parameters, flat.trainable(self.model))
        losses = [
            F.cross_entropy(functional_call(self.model, values, (x,)), y)
            for x, y in zip(self.x[step], self.y[step], strict=True)
        ]
        rows = torch.stack(
            [
                torch.autograd.grad(loss, parameters, create_graph=second_order, retain_graph=True)[0]
                for loss in losses
            ]
        )
        return Round(
            rows.detach(),
            torch.ones(len(rows)).bool(),
            rows.mean(0).detach(),
            torch.stack(losses).mean(),
            Context(),
        )


def ours(estimator: Estimator, workers: int = 1) -> Step:
    problem, aggregator = Workers(workers), Recurrent(slots=workers)
    theta = flat.flatten(flat.trainable(problem.model)).detach()[None]
    memory = theta.new_zeros(aggregator.network.state_size, theta.shape[1])

    def step(rounds: int) -> object:
        start = theta.clone().requires_grad_(isinstance(estimator, UnrolledGraph))
        seen = (aggregator.features.unseen(workers, theta),)
        state = InnerState(start, memory, seen, (0,), (0,))
        return estimator.window(problem, aggregator, state, torch.ones(rounds), 1e9, (0, 0))

    return step


class PortedLSTM(nn.Module):
    """The network as the ports write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(1, 20), nn.LSTMCell(20, 20)
        self.output = nn.Linear(20, 1)

    def forward(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step of ``(d, 1)`` inputs, and the states after it."""
        h0, c0 = self.first(x, (state[0], state[1]))
        h1, c1 = self.second(h0, (state[2], state[3]))
        return self.output(h1), [h0, c0, h1, c1]


def port() -> Step:
    mlp, network = model(), PortedLSTM()
    x, y = (part[:, 0] for part in batches(1))
    initial = {name: p.detach() for name, p in flat.trainable(mlp).items()}

    def step(rounds: int) -> object:
        values = {name: p.clone().requires_grad_() for name, p in initial.items()}
        states = {name: [torch.zeros(p.numel(), 20) for _ in range(4)] for name, p in initial.items()}
        total: Tensor | float = 0.0
        for k in range(rounds):
            loss = F.cross_entropy(functional_call(mlp, values, (x[k],)), y[k])
            total = total + loss
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            after = {}
            for name, p in values.items():
                assert p.grad is not None
                update, states[name] = network(p.grad.detach().clone().view(-1, 1), states[name])
                after[name] = p + 0.1 * update.view_as(p)
                after[name].retain_grad()
            values = after
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    return step


FORMS: dict[str, Callable[[], Step]] = {
    "usual port": port,
    "UnrolledGraph": lambda: ours(UnrolledGraph()),
    "Replay": lambda: ours(Replay()),
    "Replay, 3,000 coordinates": lambda: ours(Replay(num_coordinates=3000)),
    "Replay, 10 workers": lambda: ours(Replay(), workers=10),
}


def peak_memory() -> float:
    """Most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def one(name: str) -> None:
    """Print the CPU seconds of a window, and the bytes that each round after the first adds."""
    torch.set_num_threads(1)
    step = FORMS[name]()
    step(1)
    before = peak_memory()
    step(ROUNDS)
    memory = (peak_memory() - before) / (ROUNDS - 1)
    times = []
    for _ in range(WARM + REPEATS):
        start = time.process_time()
        step(ROUNDS)
        times.append(time.process_time() - start)
    print(statistics.median(times[WARM:]), memory)


def main() -> None:
    size = sum(p.numel() for p in model().parameters())
    print("| form | CPU ms | times faster | MB per round | floats per coordinate and round |")
    print("|---|---|---|---|---|")
    slowest = None
    for name in FORMS:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        seconds, memory = map(float, done.stdout.split())
        slowest = slowest or seconds
        floats = memory / 4 / size
        print(
            f"| {name} | {1000 * seconds:.0f} | {slowest / seconds:.1f} | {memory / 1e6:.1f} | {floats:.0f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("form", nargs="?", choices=FORMS, help="measure this one alone, in this process")
    form = parser.parse_args().form
    if form:
        one(form)
    else:
        main()
