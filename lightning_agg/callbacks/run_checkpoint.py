"""Checkpoints from which a run killed at any moment goes on."""

import math
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from lightning_agg.errors import SettingError, require
from lightning_agg.loggers import LogsAhead
from lightning_agg.runs import read_checkpoint


class RunCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` every few rounds, and ``checkpoints/best.ckpt`` after the best validation.

    A file is written aside and then moved into place, so a kill never leaves half a checkpoint or none.
    ``--ckpt_path last`` and ``--ckpt_path best`` find them.

    Args:
        every_n_rounds: Rounds between two writings of ``last.ckpt``; the last round is always written.
        monitor: Logged value that decides which validation was best; ``best.ckpt`` is not written when null.
        mode: Whether ``monitor`` should be small or large; when null, an accuracy should be large, and all else small.
    """

    def __init__(
        self,
        every_n_rounds: int = 50,
        monitor: str | None = "val/loss",
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        require(every_n_rounds >= 1, f"checkpoint.every_n_rounds must be at least 1, got {every_n_rounds}.")
        require(mode in (None, "min", "max"), f"checkpoint.mode must be min, max or null, got {mode!r}.")
        self.every_n_rounds = every_n_rounds
        self.monitor = monitor
        self.mode = mode or ("max" if monitor and should_be_large(monitor) else "min")
        self.best_score: float | None = None
        self.folder: Path | None = None
        self._saved_step = -1
        self._due = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle the folder: that of the run."""
        if self.folder is None:
            self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with no best score where the folder has no ``best.ckpt``: a run that goes on elsewhere leaves its own behind."""
        if self.folder is not None and not (self.folder / "best.ckpt").exists():
            self.best_score = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once what ``EarlyStopping`` had stopped when the checkpoint was written; where an earlier one than the last was loaded, forget the later rounds."""
        self._go_back(trainer)
        trainer.should_stop |= any(
            isinstance(callback, EarlyStopping) and _has_stopped(callback)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write ``last.ckpt`` if it is time; where a validation follows, after it.

        What a validation changes (schedule, early stopping, best score) belongs to its round, and Lightning does not
        run it again when it resumes from a checkpoint that was written before it. But the validation with which Lightning ends a
        training that is stopped in between (by ``max_time``, say) is no part of one that goes on, so it comes after ``last.ckpt``.
        """
        stopped = trainer.should_stop and trainer.fit_loop._can_stop_early
        self._due = (
            stopped
            or trainer.global_step % self.every_n_rounds == 0
            or trainer.global_step == trainer.max_steps
        )
        if self._due and not _validates(trainer):
            _log_round(trainer)
            self._save(trainer, "last")
            self._due = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``best.ckpt`` if this validation of a fit was the best, and ``last.ckpt`` if it was time."""
        if trainer.state.fn != "fit":
            return
        logged = self.monitor in trainer.callback_metrics
        if self.monitor is not None and logged:
            self._keep_best(trainer, self.monitor)
        if self._due and not trainer.sanity_checking:
            self._save(trainer, "last")
        require(
            self.monitor is None or logged,
            f"checkpoint.monitor must be a value logged in validation, got {self.monitor!r}; logged are"
            f" {', '.join(sorted(trainer.callback_metrics))}.",
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``last.ckpt`` after the last round, wherever the run was stopped."""
        if self._saved_step != trainer.global_step:
            self._save(trainer, "last")

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, and of what it is."""
        return {"best_score": self.best_score, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best score of the checkpoint, unless it is of another value."""
        if state_dict.get("monitor", self.monitor) == self.monitor:
            self.best_score = state_dict["best_score"]

    def _keep_best(self, trainer: L.Trainer, monitor: str) -> None:
        score = float(trainer.callback_metrics[monitor])
        if trainer.sanity_checking or math.isnan(score):
            return
        sign = 1 if self.mode == "min" else -1
        if self.best_score is None or sign * score < sign * self.best_score:
            self.best_score = score
            self._save(trainer, "best")

    def _go_back(self, trainer: L.Trainer) -> None:
        """Make the checkpoint that was loaded the last one, and forget a best one of rounds after it: a kill before the next writing must not bring them back."""
        if trainer.ckpt_path is None or self.folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        last, best, loaded = self.folder / "last.ckpt", self.folder / "best.ckpt", Path(trainer.ckpt_path)
        going_back = last.exists() and loaded.exists() and not last.samefile(loaded)
        abandoned = going_back and best.exists() and _rounds_of(best) > trainer.global_step
        trainer.strategy.barrier("RunCheckpoint")
        if abandoned:
            self.best_score = None
        if going_back and trainer.is_global_zero:
            aside = last.with_suffix(".writing")
            shutil.copyfile(loaded, aside)
            os.replace(aside, last)
            if abandoned:
                best.unlink()
        trainer.strategy.barrier("RunCheckpoint")

    def _save(self, trainer: L.Trainer, name: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self.folder is not None
        path = self.folder / f"{name}.ckpt"
        aside = path.with_suffix(".writing")
        trainer.save_checkpoint(aside, False)  # the whole state, not the weights alone
        if trainer.is_global_zero:
            os.replace(aside, path)
        trainer.strategy.barrier("RunCheckpoint")
        if name == "last":
            self._saved_step = trainer.global_step


def should_be_large(logged: str) -> bool:
    """Whether a logged value is one of those that should be large: an accuracy."""
    return "accuracy" in logged


def _rounds_of(path: Path) -> float:
    """Rounds that a checkpoint has had; of a damaged one more than any other."""
    try:
        return float(read_checkpoint(path)["global_step"])
    except SettingError:
        return math.inf


def _has_stopped(callback: EarlyStopping) -> bool:
    reason = getattr(callback, "stopping_reason", None)  # since Lightning 2.6
    return bool(reason.value) if reason is not None else callback.wait_count >= callback.patience


def _validates(trainer: L.Trainer) -> bool:
    """Whether a validation is due after this round, by its interval."""
    loop, stopped = trainer.fit_loop, trainer.should_stop
    trainer.should_stop = False
    due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
    trainer.should_stop = stopped
    return due


def _log_round(trainer: L.Trainer) -> None:
    """Log the round now: Lightning does so after this hook, and a kill between would lose it."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return
    row = convert_tensors_to_scalars(connector.metrics["log"])
    for logger in trainer.loggers:
        if isinstance(logger, LogsAhead) and row:
            logger.log_ahead(
                {**row, "epoch": trainer.current_epoch}, trainer.fit_loop.epoch_loop._batches_that_stepped
            )
