"""The trials of a sweep: every combination of the choices of its axes."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lightning_agg.errors import require

SETTLED = {
    "seed_everything": "seeds",
    "trainer.default_root_dir": "folder",
    "ckpt_path": "ckpt_path",
    "config": "configs",
    "c": "configs",
}
"""Options of a run that the sweep gives, and its settings for them."""

RECORDED = ("seed", "folder", "error")
"""Columns of ``results.csv`` beside the axes, the tuned options and what is logged."""

LONGEST = 60
"""Characters of a folder's name, of which a file system holds a few hundred bytes."""


@dataclass(frozen=True)
class Choice:
    """One value of an axis.

    Args:
        label: Its name in tables and folders.
        configs: Files that it adds to a run, as ``-c`` does.
        settings: Options that it adds.
        tune: Options with the values to try for it, in place of the sweep's own; ``None`` for those.
    """

    label: str
    configs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tune: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        labels: Its choice on each axis.
        tuned: The options that are tuned, with their values here.
        seed: Its ``seed_everything``.
        arguments: What ``fit`` and ``test`` are told.
    """

    labels: tuple[str, ...]
    tuned: tuple[str, ...]
    seed: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Labels, tuned options and seed, for messages."""
        return ", ".join([*self.labels, *self.tuned, f"seed {self.seed}"])


def read_axes(axes: Mapping[str, Any]) -> dict[str, list[Choice]]:
    """The choices of each axis as they stand in a sweep's file.

    Args:
        axes: By name, either ``{label: {option: value, ...}, ...}``, or a list of values of the option that the name is.

    Raises:
        SettingError: If an axis has no such form, no choices, or two of one name.
    """
    require(isinstance(axes, dict) and bool(axes), f"axes must be at least one axis by name, got {axes!r}.")
    taken = sorted(set(RECORDED).intersection(map(str, axes)))
    require(
        not taken,
        f"axes must not be called {' or '.join(RECORDED)}, which results.csv has anyway, got {', '.join(taken)}.",
    )
    read = {}
    for name, choices in ((str(name), choices) for name, choices in axes.items()):
        where = f"axes.{name}"
        require(
            isinstance(choices, list | dict) and bool(choices),
            f"{where} must be a list of values, or choices by label, got {choices!r}.",
        )
        if isinstance(choices, list):
            read[name] = [Choice(_text(value), settings=_options({name: value})) for value in choices]
        else:
            read[name] = [
                _choice(f"{where}.{label}", str(label), {} if told is None else told)
                for label, told in choices.items()
            ]
        folders = [folder_name(choice.label) for choice in read[name]]
        require(len(set(folders)) == len(folders), f"{where} must have labels that differ, got {folders}.")
    return read


def trials(
    axes: Mapping[str, Sequence[Choice]],
    rows: str,
    configs: Sequence[str],
    settings: Mapping[str, Any],
    tune: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
) -> Iterator[Trial]:
    """Every combination of choices, values to try and seeds; of an option given twice, the later one counts.

    Raises:
        SettingError: If another axis than the rows is to be tuned for.
    """
    for name, listed in axes.items():
        require(
            name == rows or all(choice.tune is None for choice in listed),
            f"axes.{name}: tune must stand in a choice of the rows ({rows}), for each of which is tuned by itself.",
        )
    row_axis = list(axes).index(rows)
    for choices in itertools.product(*axes.values()):
        files = [*configs, *(file for choice in choices for file in choice.configs)]
        options = [*_options(settings), *(option for choice in choices for option in choice.settings)]
        for file in (file for choice in choices for file in choice.configs):
            clash = sorted(given_by(file) & settings.keys())
            require(
                not clash,
                f"settings must not hold what a file of a choice gives, over which they would win: {', '.join(clash)} is in {file}.",
            )
        own = choices[row_axis].tune
        tried = tune if own is None else own
        given = {
            option.partition("=")[0].removeprefix("--") for choice in choices for option in choice.settings
        }
        twice = sorted(given & tried.keys())
        require(not twice, f"tune must not hold what a choice of the axes gives, got {', '.join(twice)}.")
        candidates = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
        for candidate, seed in itertools.product(candidates, seeds):
            told = [
                *(f"--config={file}" for file in files),
                *options,
                *_options(candidate),
                f"--seed_everything={seed}",
            ]
            yield Trial(
                labels=tuple(choice.label for choice in choices),
                tuned=tuple(f"{name}={_text(value)}" for name, value in candidate.items()),
                seed=seed,
                arguments=tuple(told),
            )


def check_tune(where: str, tune: Any) -> None:
    """Check that options have lists of values to try.

    Raises:
        SettingError: If they have not.
    """
    fits = isinstance(tune, dict) and all(isinstance(v, list) and v for v in tune.values())
    require(
        fits,
        f"{where} must be lists of values by option, such as {{model.optimizer.lr: [0.1, 0.5]}}, got {tune!r}.",
    )
    for name, values in tune.items():
        require(
            len(set(map(_text, values))) == len(values),
            f"{where}.{name} must be values that differ, got {values}.",
        )


def folder_name(label: str) -> str:
    """A label as the name of a folder.

    Example:
        >>> folder_name("7 of 10: Reverse(3)")
        '7_of_10_Reverse(3)'
    """
    name = re.sub(r"[^\w.()=+,-]+", "_", label).strip(".") or "_"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


@lru_cache
def given_by(file: str) -> frozenset[str]:
    """The options that a configuration file gives, as they are called on the command line.

    Example:
        ``model: {aggregator: {class_path: Krum, init_args: {num_byzantine: 3}}}`` gives ``model.aggregator`` and
        ``model.aggregator.num_byzantine``.
    """
    try:
        read = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return frozenset()  # the command line tells what is wrong
    return frozenset(_names(read, ""))


def _names(read: Any, name: str) -> Iterator[str]:
    if not isinstance(read, dict):
        yield name
        return
    for key, value in read.items():
        skipped = key in ("class_path", "init_args")
        yield from _names(value, name if skipped else f"{name}.{key}".lstrip("."))


def _choice(where: str, label: str, told: Any) -> Choice:
    require(isinstance(told, dict), f"{where} must be options with their values, got {told!r}.")
    files = told.get("config", [])
    files = [files] if isinstance(files, str) else files
    require(
        isinstance(files, list) and all(isinstance(file, str) for file in files),
        f"{where}.config must be a file or a list of files, got {files!r}.",
    )
    tune = told.get("tune")
    if tune is not None:
        check_tune(f"{where}.tune", tune)
    settings = {name: value for name, value in told.items() if name not in ("config", "tune")}
    return Choice(label, tuple(files), _options(settings), tune)


def _options(settings: Mapping[str, Any]) -> tuple[str, ...]:
    for name in settings:
        require(name not in SETTLED, f"{name} must be given as {SETTLED.get(name)} of the sweep.")
    return tuple(f"--{name}={_text(value)}" for name, value in settings.items())


def _text(value: Any) -> str:
    """A value as the command line has it."""
    return value if isinstance(value, str) else json.dumps(value)
