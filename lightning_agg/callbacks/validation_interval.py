"""Validates after every so many rounds, however long an epoch is."""

from typing import TYPE_CHECKING

import lightning as L

from lightning_agg.errors import require

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class ValidationInterval(L.Callback):
    """Counts ``trainer.val_check_interval`` on from epoch to epoch where it is more rounds than one has.

    Lightning counts anew in each epoch, unless ``trainer.check_val_every_n_epoch`` is null, and breaks off where that comes to nothing.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: "PoolModule") -> None:  # type: ignore[override]
        """Make ``check_val_every_n_epoch`` null where the interval does not fit into an epoch.

        Raises:
            SettingError: If that setting is neither null nor 1.
        """
        interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
        rounds, limit = len(pl_module.data.train_dataloader()), trainer.limit_train_batches
        epoch = min(rounds, limit) if isinstance(limit, int) else int(rounds * limit)
        if every is None or isinstance(interval, float) or interval <= epoch:
            return
        require(
            every == 1,
            f"trainer.check_val_every_n_epoch must be null or 1 where trainer.val_check_interval is more {pl_module.steps} than an epoch"
            f" has, got {every} (val_check_interval = {interval}, {pl_module.steps} = {epoch}; see data.rounds_per_epoch).",
        )
        trainer.check_val_every_n_epoch = None
