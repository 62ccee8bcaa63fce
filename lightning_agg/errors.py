"""The one error for settings that cannot be, and checks that raise it."""

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


class SettingError(ValueError):
    """A setting breaks a rule; the message names the setting, the rule and the value.

    The console script prints the message alone, without a traceback; from Python it is a
    ``ValueError`` like any other.
    """


def require(condition: bool, message: str) -> None:
    """Raise :class:`SettingError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise SettingError(message)


def require_count(name: str, value: int, minimum: int = 0) -> None:
    """Check that a constructor argument is an integer of at least ``minimum``."""
    require(
        _is(Integral, value) and value >= minimum,
        f"{name} must be an integer of at least {minimum}, got {value!r}.",
    )


def require_positive(name: str, value: float) -> None:
    """Check that a constructor argument is a finite number above 0."""
    require(
        _is(Real, value) and 0 < value < math.inf, f"{name} must be a finite number above 0, got {value!r}."
    )


def require_non_negative(name: str, value: float) -> None:
    """Check that a constructor argument is a finite number of at least 0."""
    require(
        _is(Real, value) and 0 <= value < math.inf,
        f"{name} must be a finite number of at least 0, got {value!r}.",
    )


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that a constructor argument is one of ``choices``, such as ``get_args`` of its ``Literal`` type."""
    known = any(type(value) is type(choice) and value == choice for choice in choices)
    require(known, f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def require_tensor(
    name: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    """Check that what a method of the user's own, ``name``, returned is a tensor of ``shape``, and of ``dtype`` where one is given."""
    right = isinstance(value, Tensor) and value.shape == shape and dtype in (None, value.dtype)
    if not right:
        wanted = f"shape {tuple(shape)}" + (f", {dtype}" if dtype else "")
        got = (
            f"shape {tuple(value.shape)}, {value.dtype}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise SettingError(f"{name} must return a torch.Tensor of {wanted}, got {got}.")


def require_method(cls: type, like: Callable[..., Any]) -> None:
    """Check that a class of the user's own has a method that can be called as ``like``, that of its base."""
    signature = inspect.signature(getattr(cls, like.__name__))
    arguments = list(inspect.signature(like).parameters)
    try:
        signature.bind(*arguments)
    except TypeError:
        name = f"{cls.__name__}.{like.__name__}"
        raise SettingError(f"{name} must take ({', '.join(arguments)}), got {signature}.") from None


def _is(kind: type, value: object) -> bool:
    """Whether it is such a number, Python's or NumPy's."""
    return isinstance(value, kind) and not isinstance(value, bool)
