"""Heat maps, and curves with bands."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_agg.callbacks.figures import palette
from lightning_agg.sweep.metrics import read_curve
from lightning_agg.sweep.panel import Panel
from lightning_agg.sweep.tables import factor, percent

LONGEST = 40
"""Characters of a label."""


def heat_map(panels: Sequence[Panel], rows: str, columns: str, score: str) -> Figure:
    """The mean scores as colors, one panel beside the other; cells without a score are white."""
    values = [
        factor(score) * np.array([[cell.mean for cell in panel.row(label)] for label in panel.tuned])
        for panel in panels
    ]
    finite = np.concatenate([value[np.isfinite(value)] for value in values])
    low, high = (0, 100) if percent(score) or not finite.size else (np.min(finite), np.max(finite))
    across, down = len(panels[0].columns), len(panels[0].tuned)
    longest = max(len(_plain(label)) for label in panels[0].tuned)
    width = 1.0 * across + 0.08 * longest + 1
    figure = Figure(figsize=(len(panels) * width + 1.2, 0.5 * down + 2.2), layout="constrained")
    for axes, panel, value in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, values, strict=True
    ):
        image = axes.imshow(value, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        axes.set(
            title=textwrap.fill(_plain(panel.title), round(8 * width)),
            xlabel=_plain(columns),
            ylabel=_plain(rows),
        )
        axes.set_xticks(range(len(panel.columns)), [*map(_plain, panel.columns)], rotation=30, ha="right")
        axes.set_yticks(range(len(panel.tuned)), [*map(_plain, panel.tuned)])
        for place in np.argwhere(np.isfinite(value)):
            here = value[tuple(place)]
            color = "black" if here > (low + high) / 2 else "white"
            axes.text(
                place[1], place[0], f"{here:.3g}", ha="center", va="center", color=color, fontsize="small"
            )
    if finite.size:
        figure.colorbar(image, label=f"{score} (%)" if percent(score) else score)
    return figure


def _plain(text: str) -> str:
    """Text that matplotlib takes for no formula, and that leaves room for the figure."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return text.replace("$", r"\$")


def curves(panel: Panel, name: str) -> Figure:
    """A logged value over the rounds: a panel for each column, a line for each row, mean ± standard deviation over the seeds."""
    across = min(3, len(panel.columns))
    down = -(-len(panel.columns) // across)
    figure = Figure(figsize=(3.5 * across + 2, 2.8 * down + 0.3), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    lines = {}
    for axes, column in zip(grid, panel.columns, strict=False):
        if len(panel.columns) > 1:
            axes.set_title(_plain(column))
        for color, label in zip(palette(len(panel.tuned)), panel.tuned, strict=True):
            found = [read_curve(folder, name) for folder in panel.cells[label, column].folders]
            # A run that was stopped early is as long as it is.
            rounds = [step for step in found[0] if all(step in curve for curve in found)] if found else []
            if rounds:
                values = factor(name) * np.array([[curve[step] for step in rounds] for curve in found])
                mean, deviation = (
                    values.mean(0),
                    values.std(0, ddof=1) if len(found) > 1 else np.zeros(len(rounds)),
                )
                (lines[label],) = axes.plot(rounds, mean, color=color, marker="o" if len(rounds) == 1 else "")
                axes.fill_between(
                    rounds, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0
                )
    for axes in grid[len(panel.columns) :]:
        axes.set_axis_off()
    figure.suptitle(_plain(panel.title))
    figure.supxlabel("round")
    figure.supylabel(f"{name} (%)" if percent(name) else name)
    figure.legend(lines.values(), [*map(_plain, lines)], loc="outside right upper")
    return figure
