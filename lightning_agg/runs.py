"""Where a run lives, and the checkpoint it goes on from.

``trainer.default_root_dir`` holds one folder per run, ``version_0``, ``version_1``, ...: a new ``fit`` gets the
next one and never touches another; resuming, ``validate``, ``test`` and ``predict`` go on in the run of their
checkpoint.
"""

import pickle
import shutil
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_agg.errors import SettingError, require
from lightning_agg.locks import lock

WRITTEN = {"state_dict", "global_step", "pytorch-lightning_version"}
"""What every checkpoint of a run holds, among others."""


@dataclass(frozen=True)
class Run:
    """A run's folder, and the checkpoint it starts from, if any.

    Args:
        folder: Holds ``config.yaml``, ``metrics.csv``, the TensorBoard events and ``checkpoints``.
        checkpoint: File to load, or ``None`` to start from the beginning.
        step: Rounds done in that checkpoint.
        claimed: Whether this process has just made the folder.
    """

    folder: Path
    checkpoint: Path | None = None
    step: int = 0
    claimed: bool = field(default=False, compare=False)

    def reserve(self) -> TextIO:
        """Keep other trainings out of the folder, until what this returns is closed or the process ends.

        Raises:
            SettingError: If one is in it, or it cannot be written to.
        """
        try:
            held = lock(self.folder)
        except OSError as error:
            raise SettingError(
                f"trainer.default_root_dir must be a folder that can be written to: {self.folder}: {error.strerror}."
            ) from error
        if held is None:
            raise SettingError(
                f"ckpt_path must not be of a run that is still being trained, got that of {self.folder}."
            )
        return held

    def discard(self) -> None:
        """Remove the folder if it was made for a run that did not even begin: it holds but empty logs."""
        if self.claimed and not (self.folder / "config.yaml").exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def locate(root: Path, subcommand: str, ckpt_path: str | None) -> Run:
    """The run that ``subcommand`` works on.

    Args:
        root: ``trainer.default_root_dir``.
        subcommand: ``fit`` starts a new run unless ``ckpt_path`` is given; the others default to ``last``.
        ckpt_path: ``last`` or ``best`` of the newest run under ``root``, a file, or ``None``.

    Raises:
        SettingError: If there is no such checkpoint, or it cannot be loaded safely, or no folder can be made under ``root``.
    """
    versions = sorted(
        (int(path.name.removeprefix("version_")), path)
        for path in root.glob("version_*")
        if path.is_dir() and path.name.removeprefix("version_").isdigit()
    )
    number = versions[-1][0] + 1 if versions else 0
    if ckpt_path is None and subcommand == "fit":
        return _claim(Run(root / f"version_{number}"), subcommand)
    if ckpt_path not in (None, "last", "best"):
        path = checkpoint_file(str(ckpt_path))
        folder = path.resolve().parent.parent
        step = read_checkpoint(path)["global_step"]
        home = next((version for _, version in versions if version.resolve() == folder), None)
        if home is None:
            return _claim(Run(root / f"version_{number}", path, step), subcommand)
        return _going_on(Run(home, path, step), subcommand)
    name = ckpt_path or "last"
    # A test of somebody else's checkpoint has a folder, too, but nothing was trained there.
    trained = [
        folder
        for _, folder in versions
        if (folder / "config.yaml").exists() or (folder / "checkpoints").exists()
    ]
    newest = (trained or [folder for _, folder in versions] or [root / "version_0"])[-1]
    path = newest / "checkpoints" / f"{name}.ckpt"
    if path.is_file():
        return _going_on(Run(newest, path, read_checkpoint(path)["global_step"]), subcommand)
    others = [folder / "checkpoints" / f"{name}.ckpt" for folder in reversed(trained)]
    older = next((file for file in others if file.is_file()), None)
    require(
        subcommand == "fit" and name == "last",
        f"ckpt_path must name a checkpoint: there is no {path} (ckpt_path = {name}); "
        + (
            f"the newest run that has one is {older}: give that as ckpt_path."
            if older
            else "run fit first, or give the"
            " checkpoint's file, or the folder that holds the run's version_N as trainer.default_root_dir."
        ),
    )
    # Killed before its first checkpoint: starting over is going on.
    rank_zero_warn(f"There is no {path} yet: training starts from round 0.")
    return Run(newest) if newest.exists() else _claim(Run(newest), subcommand)


def _going_on(run: Run, subcommand: str) -> Run:
    """``run``, of whose later rounds a training from an earlier checkpoint is told that it drops them."""
    last = run.folder / "checkpoints" / "last.ckpt"
    if subcommand != "fit" or run.checkpoint is None or not last.is_file() or last.samefile(run.checkpoint):
        return run
    try:
        done = read_checkpoint(last)["global_step"]
    except SettingError:  # damaged: why one goes on from another
        return run
    if done > run.step:
        rank_zero_warn(
            f"The run in {run.folder} goes back to round {run.step} of the {done} that it has had: what it logged since then,"
            " last.ckpt and a later best.ckpt will be replaced."
        )
    return run


def _claim(run: Run, subcommand: str) -> Run:
    """``run`` with its folder made, or with the next one that no other run that starts just now has made."""
    while getattr(rank_zero_only, "rank", 0) == 0:
        try:
            run.folder.mkdir(parents=True)
            if subcommand == "fit":
                # From now on the newest run is this one, wherever it is killed.
                (run.folder / "checkpoints").mkdir()
            return replace(run, claimed=True)
        except FileExistsError:
            number = int(run.folder.name.removeprefix("version_")) + 1
            run = replace(run, folder=run.folder.with_name(f"version_{number}"))
        except OSError as error:
            raise SettingError(
                "trainer.default_root_dir must be a folder in which others can be made, got"
                f" {run.folder.parent}: {error.strerror}."
            ) from error
    return run


def checkpoint_file(ckpt_path: str) -> Path:
    """The file that is meant: itself, or the last one of a run's folder."""
    path = Path(ckpt_path)
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running any code in it.

    Raises:
        SettingError: If the file is missing, truncated, holds code, or is no checkpoint of a run.
    """
    require(path.is_file(), f"ckpt_path must be last, best, a run's folder or an existing file, got {path}.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error below says it better
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SettingError(
            f"ckpt_path must hold tensors and plain values only; {path} holds code, which is not run, or is no"
            f" checkpoint: {_first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise SettingError(
            f"ckpt_path must be a complete checkpoint; {path} is truncated or damaged"
            f" ({path.stat().st_size} bytes): {_first_line(error)}"
        ) from error
    missing = WRITTEN - (checkpoint.keys() if isinstance(checkpoint, dict) else set())
    require(
        not missing,
        f"ckpt_path must be a checkpoint that fit has written; {path} lacks {', '.join(sorted(missing))}.",
    )
    result: dict[str, Any] = checkpoint
    return result


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0]
