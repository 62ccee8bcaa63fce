"""The choice of settings that are tuned."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from lightning_agg.sweep.grid import Trial
from lightning_agg.sweep.trial_run import Result


def best_in_the_worst_column(
    trials: Sequence[Trial],
    column_axis: int | None,
    results: Mapping[Trial, Result],
    score: str,
    goodness: Callable[[float], float],
) -> list[Trial]:
    """Of the values tried for each row, the trials of those whose mean over the seeds is best where it is worst.

    One that has a score in more columns comes first: a rule may refuse a value in some of them, or all in one.

    Args:
        trials: All.
        column_axis: The place of the columns among a trial's labels; ``None`` without columns.
        results: Of every trial.
        score: The logged value that decides.
        goodness: The larger, the better a value.
    """
    rows: dict[tuple[str, ...], dict[tuple[str, ...], list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        row = tuple(label for axis, label in enumerate(trial.labels) if axis != column_axis)
        rows[row][trial.tuned].append(trial)

    def worst(group: Sequence[Trial]) -> tuple[int, float]:
        columns: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for trial in group:
            value = results[trial].get(score)
            if value is not None:
                columns[trial.labels].append(goodness(value))
        return len(columns), min(map(statistics.fmean, columns.values()), default=-math.inf)

    return [trial for candidates in rows.values() for trial in max(candidates.values(), key=worst)]
