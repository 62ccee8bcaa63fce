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
from typing import Any, NamedTuple

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_agg.cli import main
from lightning_agg.errors import SettingError, require
from lightning_agg.sweep.grid import Trial, folder_name
from lightning_agg.sweep.metrics import COUNTS, last_logged

RECORD = "result.json"
OUTPUT = "output.txt"
HASH_LENGTH = 8
FIXED = (
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=true",  # whose metrics.csv is read
    "--trainer.devices=1",
)


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


def homes(trials: Sequence[Trial], root: Path, ckpt_path: str) -> list[Path]:
    """The folders of trials that differ in nothing but their seeds.

    No other configuration has the same: the name ends with a hash of the whole of it.

    Args:
        trials: Of one configuration.
        root: Where the trials live.
        ckpt_path: The checkpoint that is to be tested.

    Raises:
        SettingError: If the command line does not accept the arguments, or a sweep has no use for them.
    """
    config = _configuration(trials[0])
    _check_trainer(trials[0], config["trainer"])
    require(
        ckpt_path == "last" or config["checkpoint"]["monitor"] is not None,
        f"{trials[0].name}: ckpt_path must be last where checkpoint.monitor is null and no best checkpoint is kept, got {ckpt_path}.",
    )
    del config["trainer"]["default_root_dir"]
    folders = []
    for trial in trials:
        told = json.dumps({**config, "seed_everything": trial.seed}, sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:HASH_LENGTH]
        parts = map(folder_name, [*trial.labels, *trial.tuned])
        folders.append(root.joinpath(*parts, f"seed_{trial.seed}-{digest}"))
    return folders


def _check_trainer(trial: Trial, trainer: dict[str, Any]) -> None:
    """Refuse what a sweep has no use for."""
    devices, fast = trainer["devices"], trainer["fast_dev_run"]
    require(
        devices in ("auto", 1, "1") and trainer["num_nodes"] == 1,
        f"{trial.name}: trainer.devices must be 1 in a sweep, whose runs are processes of their own (see processes), got {devices};"
        " which GPUs they take is told by the environment variable CUDA_VISIBLE_DEVICES.",
    )
    require(
        trainer["logger"] in (True, None),
        f"{trial.name}: trainer.logger must be null or true in a sweep, which reads the metrics.csv of its runs, got {trainer['logger']}.",
    )
    require(
        not fast,
        f"{trial.name}: trainer.fast_dev_run must be false in a sweep, which looks at results, got {fast}.",
    )


def run(trial: Trial, root: Path, ckpt_path: str, tested: bool) -> Result:
    """Train, and test if asked to, unless it is done already; go on where it was cut off.

    Args:
        trial: What to run.
        root: The trial's folder.
        ckpt_path: The checkpoint that is tested, ``last`` or ``best``.
        tested: Whether to test.
    """
    root.mkdir(parents=True, exist_ok=True)
    told = [*trial.arguments, *FIXED, f"--trainer.default_root_dir={root}"]
    try:
        record = _recorded(root)
        if "folder" not in record:
            resumed = ["--ckpt_path=last"] if any(root.glob("version_*")) else []
            folder, known = _run(root, ["fit", *told, *resumed])
            # Of a training that was through when it was cut off, the Trainer knows nothing; a very short one has logged nothing.
            record = {"folder": folder.name, "fit": last_logged(folder) or known, "tests": {}}
            _write(root, record)
        if tested and ckpt_path not in record["tests"]:
            record["tests"][ckpt_path] = _run(root, ["test", *told, f"--ckpt_path={ckpt_path}"]).metrics
            _write(root, record)
    except (SettingError, MisconfigurationException) as error:
        return Result(error=str(error))
    except Exception as error:  # of a rule or a model of the user's own, say: the other trials go on
        with (root / OUTPUT).open("a") as file:
            traceback.print_exc(file=file)
        told_where = f"(the traceback is in {OUTPUT} of the trial's folder)"
        return Result(error=f"{type(error).__name__}: {error} {told_where}", crashed=True)
    return Result(root / record["folder"], record["fit"], record["tests"].get(ckpt_path, {}))


def _recorded(root: Path) -> dict[str, Any]:
    """What has been done of a trial."""
    path = root / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError:  # by other hands than ours, who move it into place
        return {}
    return (
        record
        if isinstance(record, dict) and "folder" in record and (root / record["folder"]).exists()
        else {}
    )


def _write(root: Path, record: dict[str, Any]) -> None:
    aside = root / f"{RECORD}.writing"
    aside.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(aside, root / RECORD)


class _Done(NamedTuple):
    """A run's folder, and what its Trainer knows at the end."""

    folder: Path
    metrics: dict[str, float]


def _run(root: Path, arguments: Sequence[str]) -> _Done:
    """Run the command line."""
    with _output_to(root / OUTPUT):
        cli = main(list(arguments))
    assert cli.run is not None
    logged = cli.trainer.callback_metrics.items()
    metrics = {name: float(value) for name, value in logged if name not in COUNTS}
    return _Done(cli.run.folder, metrics)


def _configuration(trial: Trial) -> dict[str, Any]:
    """The whole configuration that a trial's arguments come to."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main(["fit", *trial.arguments, "--print_config"])
    except SettingError as error:
        raise SettingError(f"{trial.name}: {error}") from None
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
