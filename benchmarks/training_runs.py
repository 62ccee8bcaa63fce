"""Trainings that the tables of this folder are made of, each a few seconds, several processes at a time."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning as L

Run = TypeVar("Run", bound=Hashable)


class Marks(L.Callback):
    """Keeps the validation loss of every validation, by round."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the loss."""
        self.losses[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


def quiet_trainer(rounds: int, callbacks: list[L.Callback], val_every: int | None = None) -> L.Trainer:
    """A Trainer for ``rounds`` rounds that writes nothing, and validates every ``val_every`` rounds if given."""
    validation: dict[str, Any] = (
        {"check_val_every_n_epoch": 1 << 30}
        if val_every is None
        else {"check_val_every_n_epoch": None, "val_check_interval": val_every}
    )
    return L.Trainer(
        accelerator="cpu",
        max_steps=rounds,
        max_epochs=-1,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        log_every_n_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **validation,
    )


def fitted(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, marks: Marks, split: str
) -> dict[str, Any]:
    """Train; validation loss at the marks, and accuracy (0 to 1) on a split (``val``, ``test``) at the end."""
    trainer.fit(module, datamodule=data)
    evaluate = trainer.test if split == "test" else trainer.validate
    (figures,) = evaluate(module, datamodule=data, verbose=False)
    return {
        "loss": {str(k): v for k, v in marks.losses.items()},
        "accuracy": figures[f"{split}/accuracy"],
    }


def quiet() -> None:
    """Keep Lightning's notes out of the output."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Trainings(Generic[Run]):
    """Does runs, several at a time, and none twice.

    Args:
        function: Does one run; what it returns must be JSON.
        processes: Runs at the same time.
        results_file: JSON lines that hold the results of earlier calls, and will hold those of this one.
    """

    def __init__(
        self, function: Callable[[Run], Any], processes: int = 1, results_file: Path | None = None
    ) -> None:
        self.executor = ProcessPoolExecutor(processes, get_context("spawn"), quiet)
        self.function = function
        self.results_file = results_file
        self.known: dict[str, Any] = {}
        if results_file is not None and results_file.exists():
            # A line without an end is one whose writing was cut off.
            lines = results_file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            results_file.write_text("".join(whole))
            self.known = dict(map(json.loads, whole))

    def __del__(self) -> None:
        # An executor that is only forgotten ends in an OSError when the interpreter does.
        self.executor.shutdown()

    def __call__(self, runs: Iterable[Run]) -> dict[Run, Any]:
        """The result of each run."""
        runs = list(dict.fromkeys(runs))
        missing = [run for run in runs if repr(run) not in self.known]
        results = self.executor.map(self.function, missing)
        for count, (run, value) in enumerate(zip(missing, results, strict=True), start=1):
            self.known[repr(run)] = value
            print(f"{count}/{len(missing)}  {run}  {value}"[:200], file=sys.stderr, flush=True)
            if self.results_file is not None:
                with self.results_file.open("a") as file:
                    file.write(json.dumps([repr(run), value]) + "\n")
        return {run: self.known[repr(run)] for run in runs}
