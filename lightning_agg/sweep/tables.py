"""Panels as tables."""

import math
from collections.abc import Callable, Iterator, Sequence

from lightning_agg.sweep.markdown import header, row, spread
from lightning_agg.sweep.panel import Cell, Panel

MISSING = "-"


def percent(score: str) -> bool:
    """Whether a logged value is a share, shown in percent."""
    return score.endswith("accuracy")


def factor(score: str) -> int:
    """By what a logged value is multiplied where it is shown."""
    return 100 if percent(score) else 1


def table(panel: Panel, rows: str, score: str, goodness: Callable[[float], float]) -> Iterator[str]:
    """The lines of a table, with the worst column of each row, and below it why cells are missing.

    Args:
        panel: The cells.
        rows: What the rows are.
        score: What is in the cells.
        goodness: The larger, the better a value.
    """
    several = len(panel.columns) > 1
    if panel.title:
        yield from (f"## {panel.title}", "")
    yield from header(rows, *panel.columns, *(["worst"] if several else []))
    best = {
        column: _best([panel.cells[label, column] for label in panel.tuned], goodness)
        for column in panel.columns
    }
    reasons: dict[str, list[str]] = {}
    for label, tuned in panel.tuned.items():
        cells = []
        for column, cell in zip(panel.columns, panel.row(label), strict=True):
            shown = _shown(cell, score)
            cells.append(f"**{shown}**" if cell is best[column] and len(panel.tuned) > 1 else shown)
            for reason in dict.fromkeys(cell.errors):
                reasons.setdefault(reason, []).append(f"{label}, {column}" if several else label)
        if several:
            cells.append(_worst(panel, label, score, goodness))
        yield row(f"{label} ({', '.join(map(_short, tuned))})" if tuned else label, *cells)
    for reason, places in reasons.items():
        yield from ("", f"{MISSING} {'; '.join(places)}: {reason}")


def _short(option: str) -> str:
    """A tuned option without the group it is in.

    Example:
        >>> _short("model.optimizer.lr=0.1")
        'lr=0.1'
    """
    name, value = option.split("=", 1)
    return f"{name.rpartition('.')[2]}={value}"


def _shown(cell: Cell, score: str) -> str:
    return MISSING if cell.errors else spread(cell.values, factor(score))


def _best(cells: Sequence[Cell], goodness: Callable[[float], float]) -> Cell | None:
    known = [cell for cell in cells if not math.isnan(cell.mean)]
    return max(known, key=lambda cell: goodness(cell.mean), default=None)


def _worst(panel: Panel, label: str, score: str, goodness: Callable[[float], float]) -> str:
    known = [(column, panel.cells[label, column]) for column in panel.columns]
    known = [(column, cell) for column, cell in known if not cell.errors]
    if not known:
        return MISSING
    column, cell = min(known, key=lambda pair: goodness(pair[1].mean))
    return f"{spread([cell.mean], factor(score))} ({column})"
