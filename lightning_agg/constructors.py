"""Which functions take the settings of a class."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any


def constructors(made: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A function itself; of a class its ``__init__``, and those of its bases as long as keywords are handed on to them."""
    if not isinstance(made, type):
        yield made
        return
    for base in made.__mro__:
        if "__init__" in vars(base):
            function = vars(base)["__init__"]
            yield function
            parameters = inspect.signature(function).parameters.values()
            if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return
