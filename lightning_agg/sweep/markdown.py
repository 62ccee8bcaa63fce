"""Tables in Markdown."""

import math
import statistics
from collections.abc import Sequence


def row(*cells: object) -> str:
    """One line of a table.

    Example:
        >>> row("a", 1)
        '| a | 1 |'
    """
    return "| " + " | ".join(" ".join(str(cell).split("\n")).replace("|", r"\|") for cell in cells) + " |"


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
    known = len(values) > 1 and all(map(math.isfinite, values))
    deviation = f" ± {statistics.stdev(values):.2g}" if known else ""
    return f"{statistics.fmean(values):.3g}{deviation}"
