"""What a sweep leaves behind: a line per run, tables, figures, and the same in TensorBoard."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lightning_agg.sweep.figures import curves, heat_map
from lightning_agg.sweep.grid import Trial, folder_name
from lightning_agg.sweep.panel import Panel
from lightning_agg.sweep.trial_run import Result


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
    folder: Path, panels: Sequence[Panel], rows: str, columns: str | None, score: str, curve: str, text: str
) -> None:
    """Heat map and curves as files, and in TensorBoard with the tables."""
    figures = {"heat_map": heat_map(panels, rows, columns or "", score)}
    for panel in panels:
        figures[f"curves_{folder_name(panel.title)}" if panel.title else "curves"] = curves(panel, curve)
    for events in (folder / "summary").glob("events.out.tfevents.*"):
        events.unlink()  # TensorBoard would show the figures of earlier calls, too
    with SummaryWriter(str(folder / "summary")) as writer:
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
            writer.add_figure(f"sweep/{name}", figure)
        writer.add_text("sweep/tables", text)
