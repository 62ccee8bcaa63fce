"""CPU time and extra memory of every aggregator and pre-aggregator, beside ByzFL and TorchJD where they have the rule.

Rows are standard normal around a common mean, float32; a fifth of them (fewer where the rule demands it) are the
negated mean instead, and every rule is told so many. Conventions are matched by option, so that both sides compute the
same, save that ours iterates ``GeometricMedian`` and ``CAF`` to convergence where ByzFL makes three steps, and one.

Time is ``time.process_time`` with one thread, which other load on the machine changes little: the best of calls that
alternate between the sides, so that they meet the same load. Memory is what the resident set of a forked process grows
by at its highest during one call (``VmHWM``, reset before it), the result included and the input not. A side that needs
more than ``--cap`` seconds or ``--memory`` GiB for that one call is not called again.

    OMP_NUM_THREADS=1 python benchmarks/aggregators.py --output docs/aggregator_timings.md      # about ten minutes of one core
    OMP_NUM_THREADS=1 python benchmarks/aggregators.py --shapes 10x16000 --rules Mean Krum

What follows the heading "Notes" in an existing output file is kept.
"""

import argparse
import ctypes
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import byzfl
import torch
from one_thread import use_one_thread
from reports import write_report
from torch import Tensor
from torchjd import aggregation as torchjd

from lightning_agg import aggregators as ours
from lightning_agg import preaggregators as pre
from lightning_agg.aggregators import Context

SHAPES = ((10, 16_000), (10, 1_000_000), (50, 1_000_000), (100, 100_000), (1_000, 16_000))
KEPT_FROM = "## Notes"

Call = Callable[[Tensor], Any]
Make = Callable[[int, int], Call]  # of M and f


@dataclass(frozen=True)
class Rule:
    """A rule of ours and of the others, each made for M and f; ``limit`` is the largest f that M allows."""

    ours: Make
    byzfl: Make | None = None
    torchjd: Make | None = None
    limit: Callable[[int], int] = lambda size: size


def with_public_data(aggregator: ours.Aggregator) -> Call:
    """The aggregator, called with a server's loss that is quadratic and costs a pass over the parameters."""

    def call(rows: Tensor) -> Tensor:
        context = Context(
            parameters=lambda: rows.new_zeros(rows.shape[1]),
            public_losses=lambda parameters, num_samples: torch.linalg.vector_norm(parameters - 1, dim=1),
            public_gradient=lambda num_samples: rows.new_ones(rows.shape[1]),
        )
        return aggregator(rows, context)

    return call


def on_a_copy(rule: Call) -> Call:
    """A rule that overwrites its argument."""
    return lambda rows: rule(rows.clone())


RULES: dict[str, Rule] = {
    "Mean": Rule(lambda m, f: ours.Mean(), lambda m, f: byzfl.Average(), lambda m, f: torchjd.Mean()),
    "CoordinateMedian": Rule(lambda m, f: ours.CoordinateMedian(), lambda m, f: byzfl.Median()),
    "TrimmedMean": Rule(
        lambda m, f: ours.TrimmedMean(f), lambda m, f: byzfl.TrMean(f), lambda m, f: torchjd.TrimmedMean(f)
    ),
    "Meamed": Rule(lambda m, f: ours.Meamed(f), lambda m, f: byzfl.Meamed(f)),
    "Phocas": Rule(lambda m, f: ours.Phocas(f)),
    "SignMajority": Rule(lambda m, f: ours.SignMajority()),
    "GeometricMedian": Rule(lambda m, f: ours.GeometricMedian(), lambda m, f: byzfl.GeometricMedian()),
    "CenteredClipping": Rule(
        lambda m, f: ours.CenteredClipping(radius=100.0),
        lambda m, f: byzfl.CenteredClipping(tau=100.0),
    ),
    "Krum": Rule(
        lambda m, f: ours.Krum(f, neighbors="byzfl"),
        lambda m, f: byzfl.Krum(f),
        lambda m, f: torchjd.Krum(f),
    ),
    "MultiKrum": Rule(
        lambda m, f: ours.MultiKrum(f, m - f, neighbors="byzfl"),
        lambda m, f: byzfl.MultiKrum(f),
        lambda m, f: torchjd.Krum(f, m - f),
    ),
    "Bulyan": Rule(lambda m, f: ours.Bulyan(f), limit=lambda size: (size - 3) // 4),
    "MinimumDiameterAveraging": Rule(
        lambda m, f: ours.MinimumDiameterAveraging(f), lambda m, f: byzfl.MDA(f)
    ),
    "MoNNA": Rule(lambda m, f: ours.MoNNA(f), lambda m, f: byzfl.MoNNA(f)),
    "CGE": Rule(lambda m, f: ours.CGE(f)),
    "DnC": Rule(lambda m, f: ours.DnC(f)),
    "CAF": Rule(lambda m, f: ours.CAF(f), lambda m, f: byzfl.CAF(f)),
    "SMEA": Rule(lambda m, f: ours.SMEA(f), lambda m, f: byzfl.SMEA(f)),
    "FLTrust": Rule(lambda m, f: with_public_data(ours.FLTrust())),
    "Zeno": Rule(lambda m, f: with_public_data(ours.Zeno(f))),
    "NearestNeighborMixing": Rule(lambda m, f: pre.NearestNeighborMixing(f), lambda m, f: byzfl.NNM(f)),
    "Bucketing": Rule(lambda m, f: pre.Bucketing(2), lambda m, f: byzfl.Bucketing(2)),
    "NormClipping": Rule(lambda m, f: pre.NormClipping(2.0), lambda m, f: on_a_copy(byzfl.Clipping(2.0))),
    "AdaptiveClipping": Rule(lambda m, f: pre.AdaptiveClipping(f), lambda m, f: on_a_copy(byzfl.ARC(f))),
}


def matrix(size: int, width: int, num_byzantine: int) -> Tensor:
    """``(M, d)``: honest rows, and the last ``num_byzantine`` of a sign flip."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(size, width).normal_(0.1, 1, generator=generator)
    rows[size - num_byzantine :] = -rows[: size - num_byzantine].mean(dim=0)
    return rows


@dataclass(frozen=True)
class Limits:
    """What a call may use: CPU seconds and bytes beyond the input; and CPU seconds for the repeats of a side."""

    seconds: int
    memory: int
    repeats: float


def status(field: str) -> int:
    """Bytes of a field in ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def extra_memory(make: Callable[[], Call], rows: Tensor, limits: Limits) -> float | str:
    """Bytes by which the process grows at its highest during one call, or which of the limits it breaks."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + limits.memory,) * 2)
        try:
            make()(rows[:, :2048].clone())  # brings code into memory
            call = make()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free here does not hide what the call takes
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            result = call(rows)
            os.write(write, str(status("VmHWM") - before).encode())
            del result
        except (MemoryError, RuntimeError):
            os.write(write, f"> {limits.memory >> 30} GiB".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        return f"> {limits.seconds} s"
    return told if told.startswith(">") else float(told)


def best_times(calls: list[Call], rows: Tensor, limits: Limits) -> list[float]:
    """CPU seconds of each call: the best of those made in turns until each has had its share of time."""
    best, spent = [math.inf] * len(calls), [0.0] * len(calls)
    while any(used < limits.repeats for used in spent):
        for i, call in enumerate(calls):
            if spent[i] < limits.repeats:
                start = time.process_time()
                call(rows)
                taken = time.process_time() - start
                best[i], spent[i] = min(best[i], taken), spent[i] + taken
    return best


@dataclass(frozen=True)
class Cost:
    """Of one side: CPU seconds and bytes, or why there are none."""

    seconds: float | None = None
    memory: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.seconds is None or self.memory is None:
            return self.reason
        return f"{number(1000 * self.seconds)} / {number(self.memory / 2**20)}"

    def times(self, other: "Cost") -> str:
        """How many times as long this takes, bold where it is more than once."""
        if self.seconds is None or other.seconds is None:
            return ""
        ratio = number(self.seconds / other.seconds)
        return f"**{ratio}**" if self.seconds > other.seconds else ratio


def number(value: float) -> str:
    """Two figures that tell something, and no fraction from ten on.

    Example:
        >>> number(0.0123), number(2.345), number(1234.5)
        ('0.012', '2.3', '1,234')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def costs(rule: Rule, shape: tuple[int, int], limits: Limits) -> list[Cost]:
    """Of ours, ByzFL's and TorchJD's."""
    size, width = shape
    num_byzantine = min(size // 5, rule.limit(size))
    rows = matrix(size, width, num_byzantine)
    sides = [make and partial(make, size, num_byzantine) for make in (rule.ours, rule.byzfl, rule.torchjd)]
    memory = [extra_memory(make, rows, limits) if make is not None else "" for make in sides]
    able = [i for i, told in enumerate(memory) if isinstance(told, float)]
    calls = [make() for i in able if (make := sides[i]) is not None]
    times = dict(zip(able, best_times(calls, rows, limits), strict=True))
    return [
        Cost(times[i], told) if isinstance(told, float) else Cost(reason=told)
        for i, told in enumerate(memory)
    ]


def table(names: list[str], shapes: list[tuple[int, int]], limits: Limits) -> Iterator[str]:
    """The lines of the report."""
    yield "# Cost of the aggregators"
    yield ""
    yield (
        "CPU milliseconds / MiB of extra memory of one call, float32, one thread; a fifth of the M rows are of"
        " attackers. Best of the calls made in turns with the other side's; memory is the growth of the resident"
        " set at its highest, the result included. *ratio* is our time over ByzFL's, **bold** above 1; *passes* is"
        " our time over that of `rows.sum()`, one pass over the matrix. ByzFL's two clipping rules overwrite their"
        f" argument and get a copy. A side that takes more than {limits.seconds} s or {limits.memory >> 30} GiB for"
        " a call is not timed."
    )
    yield ""
    yield "Made by `OMP_NUM_THREADS=1 python benchmarks/aggregators.py --output docs/aggregator_timings.md`."
    for shape in shapes:
        size, width = shape
        one_pass = best_times([Tensor.sum], matrix(size, width, 0), limits)[0]
        yield ""
        yield f"## M = {size}, d = {width:,}"
        yield ""
        yield f"One pass takes {number(1000 * one_pass)} ms, the matrix {number(size * width / 2**18)} MiB."
        yield ""
        yield "| rule | ours | ByzFL | ratio | TorchJD | passes |"
        yield "|---|---|---|---|---|---|"
        for name in names:
            mine, byzfls, torchjds = costs(RULES[name], shape, limits)
            passes = "" if mine.seconds is None else number(mine.seconds / one_pass)
            line = f"| {name} | {mine} | {byzfls} | {mine.times(byzfls)} | {torchjds} | {passes} |"
            print(f"{size} x {width} {line}", file=sys.stderr, flush=True)
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = {f"{size}x{width}": (size, width) for size, width in SHAPES}
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--shapes", nargs="+", choices=named, default=list(named))
    parser.add_argument("--cap", type=int, default=10, help="most CPU seconds for a call")
    parser.add_argument("--memory", type=int, default=8, help="most GiB for a call")
    parser.add_argument("--repeats", type=float, default=0.3, help="CPU seconds for the repeats of a side")
    parser.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    use_one_thread(parser)
    torch.zeros(30 * 2**18)  # 30 MiB, freed at once: glibc then keeps what it is given back, as in a long run
    limits = Limits(arguments.cap, arguments.memory << 30, arguments.repeats)
    write_report(
        table(arguments.rules, [named[name] for name in arguments.shapes], limits),
        arguments.output,
        KEPT_FROM,
    )


if __name__ == "__main__":
    main()
