"""Tables in Markdown, and the files that hold them."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path


def row(*cells: object) -> str:
    """One line of a table.

    Example:
        >>> row("a", 1)
        '| a | 1 |'
    """
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*cells), "|---" * len(cells) + "|"]


def spread(values: Sequence[float], factor: float = 1.0) -> str:
    """Mean and standard deviation, to so many digits that they can be compared.

    Example:
        >>> spread([1.0, 3.0])
        '2 ± 1.4'
    """
    values = [factor * value for value in values]
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{deviation}"


def write_report(lines: Iterable[str], output: Path | None, kept_from: str | None = None) -> None:
    """Write the lines to ``output``, or print them where it is None.

    From the line that begins with ``kept_from`` on, what the file holds already is written by hand and stays.
    """
    report = "\n".join(lines) + "\n"
    if output is None:
        print(report, end="")
        return
    if kept_from is not None and output.exists():
        _, heading, kept = output.read_text().partition(kept_from)
        report += f"\n{heading}{kept}" if heading else ""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report)
