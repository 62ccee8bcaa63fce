"""Tables in Markdown."""

import statistics
from collections.abc import Sequence


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
