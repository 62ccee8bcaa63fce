"""What a run has logged, as it stands in its ``metrics.csv``."""

import csv
from collections.abc import Iterator
from pathlib import Path

METRICS = "metrics.csv"
COUNTS = ("epoch", "step")


def last_logged(folder: Path) -> dict[str, float]:
    """The last value of everything that a run has logged in training and validation."""
    found: dict[str, float] = {}
    for line in _lines(folder):
        found |= {name: float(value) for name, value in line.items() if value}
    return {
        name: value for name, value in found.items() if name not in COUNTS and not name.startswith("test/")
    }


def read_curve(folder: Path, name: str) -> dict[int, float]:
    """A logged value by step, where it has been."""
    return {int(line["step"]): float(line[name]) for line in _lines(folder) if line.get(name)}


def _lines(folder: Path) -> Iterator[dict[str, str]]:
    path = folder / METRICS
    if path.exists():  # not where a run was so short that it logged nothing
        with path.open(newline="") as file:
            yield from csv.DictReader(file)
