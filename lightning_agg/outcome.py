"""What is told at the end of a run."""

from collections.abc import Iterator

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_agg.modules.base import PoolModule
from lightning_agg.modules.meta_learner import WEIGHTS_FILE
from lightning_agg.runs import Run

RESULTS = {
    "test/accuracy": "test accuracy",
    "meta/val_loss": "loss along the validation episodes",
    "val/accuracy": "validation accuracy",
}
"""The results, best first, by their name in the log."""


def lines(module: PoolModule, trainer: L.Trainer, subcommand: str, run: Run) -> Iterator[str]:
    """The result, or why there is none, and where it lies."""
    fitted = subcommand == "fit"
    result = _result(module, trainer, subcommand)
    if result is not None:
        yield result
    elif fitted and trainer.global_step == run.step:
        bound = "EarlyStopping" if trainer.should_stop else "trainer.max_steps"
        yield f"nothing left to train: the run has had its {run.step} {module.steps}, see {bound}"
    elif fitted and trainer.limit_val_batches == 0:
        yield "not validated: trainer.limit_val_batches is 0"
    elif fitted:
        yield "not validated: training ended before the next validation, see trainer.val_check_interval"
    yield f"run: {run.folder}"
    if fitted and (run.folder / WEIGHTS_FILE).exists():
        yield f"weights: {run.folder / WEIGHTS_FILE}"
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            yield f"curves: tensorboard --logdir {logger.log_dir}"


def _result(module: PoolModule, trainer: L.Trainer, subcommand: str) -> str | None:
    """The first of the results that was logged; where it is not the end's, with its round."""
    for name, title in RESULTS.items():
        if name in trainer.callback_metrics and name.startswith("test") == (subcommand == "test"):
            told = f"{title}: {float(trainer.callback_metrics[name]):.4f}"
            if subcommand == "fit" and module.validated_rounds != trainer.global_step:
                told += f" (after {module.validated_rounds} of {trainer.global_step} {module.steps})"
            return told
    return None
