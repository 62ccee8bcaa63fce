"""The record of a run: its configuration, figures and final results."""

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import lightning as L
import matplotlib.pyplot as plt
import yaml
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure

from lightning_agg.callbacks.figures import confusion_figure, label_figure
from lightning_agg.errors import require

if TYPE_CHECKING:
    from lightning_agg.modules.parameter_server import ParameterServer

GROUPS = ("seed_everything", "model", "data", "byzantine", "noise", "compression")
KEPT = (
    "seed_everything",
    "data",
    "data.pool_size",
    "data.partitioner",
    "data.seed",
    "data.classes",
    "data.val_size",
    "data.public_size",
    "data.test_fraction",
    "data.standardize",
    "data.train",
    "data.test",
    "model.optimizer",
    "model.lr_scheduler",
    "model.trust_training.optimizer",
    "model.trust_training.lr_scheduler",
)
"""Settings that a checkpoint holds the state of, or that divide or scale the data: a run that goes on keeps them, and those below them.

With others a sample that was trained on could come into the validation. Where the files lie (``data.root``, ``data.path``) may change.
"""

PLACES = (".root", ".download")
"""Endings of settings below them that say where the files lie: ``data.train.root``."""

EVALUATED = ("seed_everything", "model", "data")
FINAL = ("val/loss", "val/accuracy", "test/loss", "test/accuracy")

# The default of a class of others: Timer's interval.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class RunRecord(SaveConfigCallback):
    """Writes ``config.yaml``, and shows the run in TensorBoard.

    TensorBoard gets the whole configuration as text, the label distribution over the workers, the hyper-parameters
    with the final metrics, and the confusion matrix of a test. ``config.yaml`` is the record of a run: nothing
    of the configuration is in the checkpoints. It is written when training starts: settings that are refused leave
    nothing behind, and change no record of a run that was to be resumed.

    Args:
        folder: The run's folder; the logger's when null.
        kwargs: Arguments of Lightning's ``SaveConfigCallback``.
    """

    def __init__(self, *args: Any, folder: Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **{"save_to_log_dir": folder is None, **kwargs})
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the configuration, and show it in TensorBoard."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config.ckpt_path = None  # what was resumed is this run itself: its record begins another one
            self.parser.save(config, self.folder / self.config_filename, skip_none=False, overwrite=True)
        for logger in _tensorboards(trainer):
            text = "\n".join(
                f"    {line}" for line in self.parser.dump(self.config, skip_none=False).splitlines()
            )
            logger.experiment.add_text("config", text, global_step=trainer.global_step)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the configuration, and draw which worker holds which labels."""
        self._tell_changes(trainer)
        trainer.strategy.barrier("RunRecord")  # no process reads the record while another writes it
        super().setup(trainer, pl_module, "fit")
        if not _is_server(pl_module) or trainer.global_step > 0:
            return
        data = pl_module.data
        counts = data.pool.label_counts(data.num_classes)
        self._draw(trainer, "data/labels", label_figure(counts, data.class_names, pl_module.byzantine()))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of other settings than those of the training, if this is none."""
        if trainer.state.fn == "validate":
            self._tell_evaluation(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of other settings than those of the training."""
        self._tell_evaluation(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of other settings than those of the training."""
        self._tell_evaluation(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the final validation."""
        self._finish(trainer)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the confusion matrix."""
        if _is_server(pl_module):
            counts = pl_module.confusion.compute().cpu().numpy()
            self._draw(
                trainer,
                "test/confusion",
                confusion_figure(counts, pl_module.data.class_names),
                pl_module.trained_rounds,
            )

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the test."""
        self._finish(trainer)

    def _tell_evaluation(self, trainer: L.Trainer) -> None:
        """Warn of settings of a test that are not those the run was trained with, and bear upon its figures."""
        record = self._record(trainer)
        if record is None:
            return
        changes = self._changes(EVALUATED, record)
        if changes:
            rank_zero_warn(
                f"The run in {record.parent} is evaluated with other settings than it was trained with: {'; '.join(changes.values())}."
                f" With -c {record} they are its own; another seed splits the data anew."
            )

    def _tell_changes(self, trainer: L.Trainer) -> None:
        """Warn of settings that are not those a resumed run has had so far.

        Raises:
            SettingError: If one is among them that would not count, or would make another run of it.
        """
        record, step = self._record(trainer), trainer.global_step
        if record is None:
            return
        changes = self._changes(GROUPS, record)
        kept = [told for name, told in changes.items() if step > 0 and is_kept(name)]
        require(
            not kept,
            f"ckpt_path must be of a run with these settings, to go on with it: {'; '.join(kept)}. Its optimizer, schedule and shards are"
            " those of the checkpoint; for others begin a new run.",
        )
        if changes:
            rank_zero_warn(
                f"The run in {record.parent} goes on from round {step} with other settings: {'; '.join(changes.values())}."
            )

    def _changes(self, groups: Iterable[str], record: Path) -> dict[str, str]:
        """What there is to tell of each setting that is not that of the record."""
        recorded = yaml.safe_load(record.read_text())
        present = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        before, now = (
            flat_settings({name: value for name, value in config.items() if name in groups})
            | {"trainer.precision": _precision(config)}
            for config in (recorded, present)
        )
        return {
            name: f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        }

    def _record(self, trainer: L.Trainer) -> Path | None:
        """The file of the run's configuration so far, or that of the run that has written its checkpoint."""
        folders = [self.folder]
        if trainer.ckpt_path is not None:
            checkpoints = Path(trainer.ckpt_path).resolve().parent
            folders += [checkpoints.parent] if checkpoints.name == "checkpoints" else []
        files = [folder / self.config_filename for folder in folders if folder is not None]
        return next((file for file in files if file.exists()), None)

    def _draw(self, trainer: L.Trainer, name: str, figure: Figure, step: int = 0) -> None:
        for logger in _tensorboards(trainer) if trainer.is_global_zero else []:
            logger.experiment.add_figure(name, figure, global_step=step)
        plt.close(figure)

    def _finish(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        final = {
            name: float(trainer.callback_metrics[name]) for name in FINAL if name in trainer.callback_metrics
        }
        # A test may be told less than the training was.
        record = self._record(trainer)
        text = self.parser.dump(self.config, skip_none=False) if record is None else record.read_text()
        config = yaml.safe_load(text)
        settings = flat_settings({name: config[name] for name in GROUPS if config.get(name) is not None})
        settings = {name: value for name, value in settings.items() if value != "None"}
        for logger in _tensorboards(trainer):
            logger.log_hyperparams(
                settings, {f"final/{name.replace('/', '_')}": value for name, value in final.items()}
            )
            logger.save()


def _precision(config: dict[str, Any]) -> str:
    """That of a run, by the name that Lightning's number for it stands for."""
    told = config.get("trainer", {}).get("precision")
    named = {"None": "32-true", "64": "64-true", "32": "32-true"}
    return named.get(str(told), str(told))


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted names, with the bare class name in place of each ``class_path``.

    Example:
        >>> flat_settings({"data": {"class_path": "lightning_agg.data.DigitsPool", "init_args": {"pool_size": 10}}})
        {'data': 'DigitsPool', 'data.pool_size': 10}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else key
        if key == "class_path":
            flat[prefix] = value.rsplit(".", 1)[-1]
        elif isinstance(value, dict):
            flat |= flat_settings(value, prefix if key == "init_args" else name)
        else:
            flat[name] = value if isinstance(value, int | float | str) else str(value)
    return flat


def is_kept(name: str) -> bool:
    """Whether a run that goes on keeps the setting."""
    below = any(name.startswith(f"{kept}.") for kept in KEPT if kept != "data")
    return name in KEPT or (below and not name.endswith(PLACES))


def _tensorboards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _is_server(pl_module: L.LightningModule) -> "TypeGuard[ParameterServer]":
    # Imported here: modules import the callbacks' base, and so this package, while they are made.
    from lightning_agg.modules.parameter_server import ParameterServer

    return isinstance(pl_module, ParameterServer)
