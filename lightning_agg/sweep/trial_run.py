"""One trial: an ordinary ``fit``, and a ``test``, in a process that does one after another."""

import contextlib
import hashlib
import io
import json
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_agg.cli import main
from lightning_agg.errors import SettingError
from lightning_agg.sweep.grid import Trial, folder_name

RECORD = "result.json"
OUTPUT = "output.txt"
HASH_LENGTH = 8
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@dataclass
class Result:
    """What came of a trial.

    Args:
        folder: The run's, with ``metrics.csv``; ``None`` if there is none.
        fit: What was logged last in training and validation, by name.
        test: What the test gave; empty if there was none.
        error: Why there is nothing, in the words of the error.
        crashed: Whether that is not about a setting.
    """

    folder: Path | None = None
    fit: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    crashed: bool = False

    def get(self, name: str) -> float | None:
        """A logged value, if it was logged."""
        return self.test.get(name, self.fit.get(name))


def homes(trials: Sequence[Trial], root: Path) -> list[Path]:
    """The folders of trials that differ in nothing but their seeds.

    No other configuration has the same: the name ends with a hash of the whole of it.

    Raises:
        SettingError: If the command line does not accept the arguments.
    """
    config = _configuration(trials[0])
    del config["trainer"]["default_root_dir"]
    folders = []
    for trial in trials:
        told = json.dumps({**config, "seed_everything": trial.seed}, sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:HASH_LENGTH]
        parts = map(folder_name, [*trial.labels, *trial.tuned])
        folders.append(root.joinpath(*parts, f"seed_{trial.seed}-{digest}"))
    return folders


def run(trial: Trial, root: Path, ckpt_path: str, tested: bool) -> Result:
    """Train, and test if asked to, unless it is done already; go on where it was cut off.

    Args:
        trial: What to run.
        root: The trial's folder.
        ckpt_path: The checkpoint that is tested, ``last`` or ``best``.
        tested: Whether to test.
    """
    root.mkdir(parents=True, exist_ok=True)
    record = read(root)
    told = [*trial.arguments, *QUIET, f"--trainer.default_root_dir={root}"]
    try:
        if not record.fit:
            resumed = ["--ckpt_path=last"] if any(root.glob("version_*")) else []
            record.folder, record.fit = _call(root, ["fit", *told, *resumed])
            _write(root, record)
        if tested and not record.test:
            _, record.test = _call(root, ["test", *told, f"--ckpt_path={ckpt_path}"])
            _write(root, record)
    except (SettingError, MisconfigurationException) as error:
        return Result(error=str(error))
    except (
        Exception
    ) as error:  # a rule or a model of the user's own may raise anything: the other trials go on
        with (root / OUTPUT).open("a") as file:
            traceback.print_exc(file=file)
        name = type(error).__name__
        return Result(
            error=f"{name}: {error} (the traceback is in {OUTPUT} of the trial's folder)", crashed=True
        )
    return record


def read(root: Path) -> Result:
    """What is recorded of a trial so far."""
    path = root / RECORD
    if not path.exists():
        return Result()
    record = json.loads(path.read_text())
    return Result(root / record["folder"], record["fit"], record["test"])


def _write(root: Path, result: Result) -> None:
    assert result.folder is not None
    record = {"folder": result.folder.name, "fit": result.fit, "test": result.test}
    aside = root / f"{RECORD}.writing"
    aside.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(aside, root / RECORD)


def _call(root: Path, arguments: Sequence[str]) -> tuple[Path, dict[str, float]]:
    """Run the command line; the run's folder, and what was logged last."""
    with _output_to(root / OUTPUT):
        cli = main(list(arguments))
    assert cli.run is not None
    logged = {name: float(value) for name, value in cli.trainer.callback_metrics.items() if name != "step"}
    return cli.run.folder, logged


def _configuration(trial: Trial) -> dict[str, Any]:
    """The whole configuration that a trial's arguments come to."""
    printed, told = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            main(["fit", *trial.arguments, "--print_config"])
    except SystemExit as ended:
        if ended.code:
            _, _, message = told.getvalue().rpartition("error: ")
            raise SettingError(f"{trial.name}: {message.strip()}") from None
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append whatever this process writes to a file, that of libraries included, which may have kept the streams."""
    kept = os.dup(1), os.dup(2)
    with (
        path.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            for stream, fileno in enumerate(kept, start=1):
                os.dup2(fileno, stream)
                os.close(fileno)
