"""Null where a class needs a value, which jsonargparse lets pass in a class that a setting names."""

import inspect
import pkgutil
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from lightning_agg.constructors import constructors
from lightning_agg.errors import require


def require_values(settings: object, where: str = "") -> None:
    """Check what has been parsed, and all that is in it.

    Args:
        settings: A group of settings, a list or a value.
        where: Its name.

    Raises:
        SettingError: If a setting is null that its class declares with a type that has no null, and with another default.
    """
    if isinstance(settings, list):
        for each in settings:
            require_values(each, where)
    if not isinstance(settings, Namespace | Mapping):
        return
    values = vars(settings) if isinstance(settings, Namespace) else settings
    given, path = values.get("init_args"), values.get("class_path")
    if given is None or not isinstance(path, str):
        for name, value in values.items():
            require_values(value, f"{where}.{name}".lstrip("."))
        return
    owner = path.rpartition(".")[2]
    for name in _needed(pkgutil.resolve_name(path)):
        require(
            name not in given or given[name] is not None, f"{where}.{name} must be given: {owner} needs it."
        )
    require_values(given, where)


def _needed(made: Any) -> list[str]:
    """Parameters of a class or function that cannot be null."""
    found: dict[str, bool] = {}
    for function in constructors(made):
        # A class's own word counts, where its base has the same parameter.
        found = _parameters(function) | found
    return [name for name, needed in found.items() if needed]


def _parameters(function: Any) -> dict[str, bool]:
    """Whether each parameter needs a value."""
    try:
        types, parameters = get_type_hints(function), inspect.signature(function).parameters.values()
    # Of others: types that are text, or a function that is not of Python.
    except (NameError, TypeError, ValueError):
        return {}
    return {p.name: p.default is not None and not _has_null(types.get(p.name, Any)) for p in parameters}


def _has_null(kind: object) -> bool:
    return kind in (Any, object, None, NoneType) or NoneType in get_args(kind)
