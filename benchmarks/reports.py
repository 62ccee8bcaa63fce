"""The files that hold tables."""

from collections.abc import Iterable
from pathlib import Path


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
