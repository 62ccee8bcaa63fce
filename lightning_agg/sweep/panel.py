"""The results of a sweep, as the cells of tables."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_agg.sweep.grid import Choice, Trial
from lightning_agg.sweep.trial_run import Result


@dataclass
class Cell:
    """The runs of all seeds.

    Args:
        values: The score of each.
        folders: Where each one's curve lies.
        errors: Why there are none.
        crashed: Whether one of these is not about a setting.
    """

    values: list[float] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    crashed: bool = False

    @property
    def mean(self) -> float:
        """Over the seeds; NaN where a run is missing."""
        return math.nan if self.errors or not self.values else statistics.fmean(self.values)


@dataclass
class Panel:
    """One table.

    Args:
        title: The choices on the axes that are neither rows nor columns; empty if there are none.
        tuned: Labels of the rows, with the options chosen for each.
        columns: Labels of the columns.
        cells: By row and column.
    """

    title: str
    tuned: dict[str, tuple[str, ...]]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]

    def row(self, label: str) -> list[Cell]:
        """The cells of a row, from left to right."""
        return [self.cells[label, column] for column in self.columns]


def panels(
    axes: Mapping[str, Sequence[Choice]],
    rows: str,
    columns: str | None,
    score: str,
    results: Mapping[Trial, Result],
) -> list[Panel]:
    """The tables of trials that each stand for their choices.

    Args:
        axes: Of the sweep, by name.
        rows: The axis down.
        columns: The axis across; with ``None`` there is one column, the score.
        score: The logged value in the cells.
        results: Of the trials with the chosen settings, seeds in order.
    """
    names = list(axes)
    grouped: dict[str, list[tuple[str, str, Trial]]] = defaultdict(list)
    for trial in results:
        labels = dict(zip(names, trial.labels, strict=True))
        row, column = labels.pop(rows), labels.pop(columns) if columns else score
        title = ", ".join(f"{name} {label}" for name, label in labels.items())
        grouped[title].append((row, column, trial))
    tables = []
    for title, members in grouped.items():
        panel = Panel(title, {}, list(dict.fromkeys(column for _, column, _ in members)), defaultdict(Cell))
        for row, column, trial in members:
            panel.tuned[row] = trial.tuned
            cell, result = panel.cells[row, column], results[trial]
            value = result.get(score)
            cell.crashed |= result.crashed
            if result.folder is not None:
                cell.folders.append(result.folder)
            if value is None:
                logged = ", ".join(sorted({*result.fit, *result.test}))
                cell.errors.append(result.error or f"{score} is not among what the run logs: {logged}.")
            else:
                cell.values.append(value)
        tables.append(panel)
    return tables
