"""Loggers of a run that goes on after a kill as if nothing had happened."""

import csv
import os
from collections.abc import Callable
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class LogsAhead(Logger):
    """Can write a round before Lightning logs it, so that a checkpoint of the round is never without it."""

    _ahead: int | None = None

    def log_ahead(self, metrics: dict[str, Any], step: int) -> None:
        """Write the row of ``step`` now, and not when it is logged next."""
        self.log_metrics(metrics, step)
        self.flush()
        self._ahead = step

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log, unless it has been written ahead."""
        if step is not None and step == self._ahead:
            self._ahead = None
        else:
            super().log_metrics(metrics, step)  # type: ignore[safe-super]

    def flush(self) -> None:
        """Bring to disk what has been logged."""
        self.save()


class ResumableTensorBoardLogger(LogsAhead, TensorBoardLogger):  # type: ignore[misc]
    """Lightning's logger of TensorBoard events; on resume TensorBoard forgets what was logged after the checkpoint.

    Args:
        save_dir: Folder of the runs.
        resume_step: Rounds done in the checkpoint; ``None`` for a new run, or to keep every event.
        kwargs: Arguments of Lightning's ``TensorBoardLogger``.
    """

    def __init__(self, save_dir: str, resume_step: int | None = None, **kwargs: Any) -> None:
        if resume_step is not None:
            kwargs["purge_step"] = resume_step
        super().__init__(save_dir, **kwargs)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made when it first writes: a run that is refused before leaves no file, which would hide events of those there are."""
        return _Later(lambda: super(ResumableTensorBoardLogger, self).experiment)

    def save(self) -> None:
        """Bring the events to disk; ``config.yaml`` tells the settings, and no ``hparams.yaml`` beside it."""
        if self._experiment is not None:
            self._experiment.flush()


class _Later:
    """What ``make`` makes, once something is asked of it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


class ResumableCSVLogger(LogsAhead, CSVLogger):
    """Writes ``metrics.csv``; on resume keeps the rows before ``resume_step`` instead of deleting the file.

    Rounds are counted from 0: ``step`` is the round that a row is of, and of a validation in the training the round after which it comes. What
    ``validate`` and ``test`` log has the number of rounds done instead, which is one more: of 30 rounds the last is 29, and a test of it is at 30.

    Args:
        save_dir: Folder of the file.
        resume_step: Rounds done in the checkpoint; ``None`` keeps every row.
        kwargs: Arguments of Lightning's ``CSVLogger``.
    """

    def __init__(self, save_dir: str, resume_step: int | None = None, **kwargs: Any) -> None:
        super().__init__(save_dir, **kwargs)
        self._resume_step = resume_step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made when it is first used."""
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = _Writer(self.log_dir, self._resume_step)
        return self._experiment


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str, resume_step: int | None) -> None:
        super().__init__(log_dir)
        self._resume_step = resume_step
        self._begun = False

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Add a row; before the first one, drop those after the checkpoint: a run that is refused loses none."""
        if not self._begun:
            self._begun = True
            self._go_on()
        super().log_metrics(metrics_dict, step)

    def _go_on(self) -> None:
        if not os.path.exists(self.metrics_file_path):
            return
        with open(self.metrics_file_path, newline="") as file:
            reader = csv.DictReader(file)
            self.metrics_keys = list(reader.fieldnames or [])
            # A kill may have cut the last row short.
            rows = [row for row in reader if None not in row.values() and row["step"].isdigit()]
        until = self._resume_step
        self._replace([row for row in rows if until is None or _is_before(row, until)])

    def save(self) -> None:
        """Append the rows, under the header that the file has by now: a test of the running training may have widened it."""
        if self.metrics and os.path.exists(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                header = next(csv.reader(file), [])
            missing = [key for key in self.metrics_keys if key not in header]
            self.metrics_keys = header + missing
            if missing:
                self._rewrite_with_new_header(self.metrics_keys)
        super().save()

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        aside = f"{self.metrics_file_path}.writing"
        with open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(aside, self.metrics_file_path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """In Lightning's writer, a kill at this moment loses the file."""
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        self._replace(rows)

    def _check_log_dir_exists(self) -> None:
        """Lightning's writer would delete the file here."""


def _is_before(row: dict[str, Any], resume_step: int) -> bool:
    """Whether a row is of what a run that resumes has done; an evaluation's step is the number of rounds done, one more than the last's."""
    # Only rows of a training have an epoch.
    evaluated = row.get("epoch") == "" or any(
        value and name.startswith("test/") for name, value in row.items()
    )
    return int(row["step"]) < resume_step + evaluated
