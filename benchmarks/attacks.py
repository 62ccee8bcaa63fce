"""Damage and CPU time of the line-search attacks, beside ByzFL's ``Optimal_*``, at d = 1,000,000.

Eight honest rows, standard normal around a common mean that is itself normal, 0.3 a coordinate, and two attackers,
float32. Both sides attack the same rule along the same line (ALIE above the mean, divisor n - 1), with 20 evaluations
where ours has to try the whole matrix. Damage is the distance of the aggregate from the honest mean, by our rule, over
that of the honest rows (root mean square). Time is ``time.process_time`` with one thread, ByzFL's with ByzFL's own
rule: the best of a few calls of ours, and a single one of ByzFL's, which takes seconds.

    OMP_NUM_THREADS=1 python benchmarks/attacks.py --output docs/attack_timings.md      # about three minutes of one core

What follows the heading "Notes" in an existing output file is kept.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import byzfl
import torch
from one_thread import use_one_thread
from reports import write_report
from torch import Tensor

from lightning_agg.aggregators import (
    Aggregator,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Mean,
    PreAggregated,
    TrimmedMean,
)
from lightning_agg.attacks import ALittleIsEnough, InnerProduct, LineSearch
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.preaggregators import NearestNeighborMixing

HONEST, BYZANTINE, WIDTH, EVALUATIONS = 8, 2, 1_000_000, 20
KEPT_FROM = "## Notes"

# Ours, ByzFL's, and the steps before ByzFL's.
RULES: dict[str, tuple[Aggregator, Any, list[Any]]] = {
    "Mean": (Mean(), byzfl.Average(), []),
    "CoordinateMedian": (CoordinateMedian(), byzfl.Median(), []),
    "TrimmedMean": (TrimmedMean(BYZANTINE), byzfl.TrMean(BYZANTINE), []),
    "Krum": (Krum(BYZANTINE, neighbors="byzfl"), byzfl.Krum(BYZANTINE), []),
    "GeometricMedian": (GeometricMedian(), byzfl.GeometricMedian(), []),
    "NearestNeighborMixing, TrimmedMean": (
        PreAggregated([NearestNeighborMixing(BYZANTINE)], TrimmedMean(BYZANTINE)),
        byzfl.TrMean(BYZANTINE),
        [byzfl.NNM(BYZANTINE)],
    ),
}
LINES: dict[str, tuple[LineAttack, Any]] = {
    "InnerProduct": (InnerProduct(), byzfl.Optimal_InnerProductManipulation),
    "ALittleIsEnough": (
        ALittleIsEnough(direction="above", ddof=1),
        byzfl.Optimal_ALittleIsEnough,
    ),
}


def honest_rows(width: int) -> Tensor:
    """``(H, d)``."""
    generator = torch.Generator().manual_seed(0)
    mean = 0.3 * torch.randn(width, generator=generator)
    return torch.randn(HONEST, width, generator=generator) + mean


def damage(rule: Aggregator, honest: Tensor, sent: Tensor) -> float:
    """How far the attackers drag the aggregate, in honest deviations."""
    mean = honest.mean(dim=0)
    deviation = (honest - mean).norm(dim=1).square().mean().sqrt()
    return float((rule.trial(torch.cat([honest, sent.expand(BYZANTINE, -1)])) - mean).norm() / deviation)


def timed(call: Callable[[], Tensor], repeats: int) -> tuple[Tensor, float]:
    """What a call returns, and the CPU seconds of the fastest of ``repeats``."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        best = min(best, time.process_time() - start)
    return result, best


def table(width: int, repeats: int) -> Iterator[str]:
    """The lines of the report."""
    honest = honest_rows(width)
    own = torch.zeros(BYZANTINE, width)
    yield "# Cost and damage of the line-search attacks"
    yield ""
    yield (
        f"{HONEST} honest rows and {BYZANTINE} attackers, d = {width:,}, float32, one thread. Damage: distance of the"
        " aggregate from the honest mean, in honest deviations. CPU seconds of a round. *time* and *damage* at the"
        f" end are ours over ByzFL's; ByzFL makes its {EVALUATIONS} evaluations."
    )
    yield ""
    yield "Made by `OMP_NUM_THREADS=1 python benchmarks/attacks.py --output docs/attack_timings.md`."
    yield ""
    yield "| line | rule | ours: damage | s | ByzFL: damage | s | damage | time |"
    yield "|---|---|---|---|---|---|---|---|"
    for line_name, (line, peer) in LINES.items():
        for rule_name, (rule, their_rule, steps) in RULES.items():
            search = LineSearch(line, rule)
            attack = peer(agg=their_rule, pre_agg_list=steps, f=BYZANTINE, evals=EVALUATIONS)
            sent, seconds = timed(lambda search=search: search(honest, own), repeats)
            theirs, their_seconds = timed(lambda attack=attack: attack(honest), 1)
            ours_damage, their_damage = damage(rule, honest, sent), damage(rule, honest, theirs)
            row = (
                f"| {line_name} | {rule_name} | {ours_damage:.3g} | {seconds:.2g} | {their_damage:.3g} |"
                f" {their_seconds:.2g} | {ours_damage / their_damage:.3g} | {seconds / their_seconds:.2g} |"
            )
            print(row, file=sys.stderr, flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=WIDTH, help="d")
    parser.add_argument("--repeats", type=int, default=3, help="calls of ours; ByzFL's is called once")
    parser.add_argument("--output", type=Path, help="file to write; standard output if not given")
    arguments = parser.parse_args()
    use_one_thread(parser)
    torch.zeros(30 * 2**18)  # 30 MiB, freed at once: glibc then keeps what it is given back, as in a long run
    write_report(table(arguments.width, arguments.repeats), arguments.output, KEPT_FROM)


if __name__ == "__main__":
    main()
