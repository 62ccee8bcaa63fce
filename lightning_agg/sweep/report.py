"""What a sweep leaves behind: a line per run, tables, figures, and the same in TensorBoard."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lightning_agg.sweep.figures import curves, heat_map
from lightning_agg.sweep.grid import Trial, folder_name
from lightning_agg.sweep.panel import Panel
from lightning_agg.sweep.trial_run import Result

FIGURES = "figures"
SUMMARY = "summary"
"""Folders in that of the sweep whose files are ours alone."""


def write_results(path: Path, axes: Sequence[str], results: Mapping[Trial, Result]) -> None:
    """A line for each run: its choices, what was tuned, everything that was logged last, and where it lies."""
    lines = [
        {
            **dict(zip(axes, trial.labels, strict=True)),
            **dict(option.split("=", 1) for option in trial.tuned),
            "seed": trial.seed,
            **result.fit,
            **result.test,
            "folder": result.folder or "",
            "error": result.error or "",
        }
        for trial, result in results.items()
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    last = ("folder", "error")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(name for name in names if name not in last), *last], restval="")
        writer.writeheader()
        writer.writerows(lines)


def write_figures(
    folder: Path,
    panels: Sequence[Panel],
    rows: str,
    columns: str | None,
    score: str,
    curve: str | None,
    text: str,
) -> None:
    """Heat map, and curves where there are some, as files, and in TensorBoard with the tables."""
    figures = {"heat_map": heat_map(panels, rows, columns or "", score)}
    if curve is not None:
        for panel in panels:
            name = f"curves_{folder_name(panel.title)}" if panel.title else "curves"
            figures[name] = curves(panel, curve)
    for earlier in (*(folder / FIGURES).glob("*.png"), *(folder / SUMMARY).glob("events.out.tfevents.*")):
        earlier.unlink()  # the panels may have been others
    (folder / FIGURES).mkdir(exist_ok=True)
    with SummaryWriter(str(folder / SUMMARY)) as writer:
        for name, figure in figures.items():
            figure.savefig(folder / FIGURES / f"{name}.png", dpi=150)
            writer.add_figure(f"sweep/{name}", figure)
        writer.add_text("sweep/tables", text)
