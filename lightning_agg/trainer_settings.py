"""Which settings of the Trainer a simulation takes."""

from typing import Any

from lightning.pytorch import callbacks

from lightning_agg.callbacks import ByzantineInjection, GradientCompression, RunCheckpoint
from lightning_agg.callbacks.byzantine_injection import require_one_injection
from lightning_agg.errors import require


def check_trainer(config: Any, subcommand: str, injection: ByzantineInjection) -> None:
    """Refuse what would be ignored, or would break a resume or the rounds.

    Args:
        config: The group ``trainer``, with callbacks and loggers made.
        subcommand: ``fit`` or another one.
        injection: The group ``byzantine``.

    Raises:
        SettingError: If a setting breaks a rule.
    """
    require(
        config.enable_checkpointing is not False,
        "trainer.enable_checkpointing must not be false: every run can be resumed; for fewer checkpoints raise"
        " checkpoint.every_n_rounds and set checkpoint.monitor to null.",
    )
    devices = str(len(config.devices) if isinstance(config.devices, list) else config.devices)
    several = config.num_nodes > 1 or (devices.isdigit() and int(devices) > 1)
    require(
        not several or config.strategy != "auto",
        "trainer.strategy must be worker_parallel where trainer.devices or trainer.num_nodes are several: it spreads the workers over them (strategy ="
        f" {config.strategy}, devices = {config.devices}, num_nodes = {config.num_nodes}).",
    )
    bounds = config.max_steps, config.max_epochs, config.max_time, config.fast_dev_run
    require(
        subcommand != "fit" or bounds != (-1, -1, None, False),
        "trainer.max_steps must be set, to the number of rounds (or max_epochs, or max_time): without an end"
        " training goes on for ever (max_steps = -1, max_epochs = -1, max_time = null).",
    )
    require(
        config.overfit_batches in (0, None),
        f"trainer.overfit_batches must be 0, got {config.overfit_batches}: rounds are drawn from shards; for few samples"
        " set data.batch_size to full and data.val_size so that little is left.",
    )
    require(
        config.val_check_interval is None or config.val_check_interval > 0,
        f"trainer.val_check_interval must be above 0, got {config.val_check_interval}.",
    )
    require(
        subcommand != "fit" or config.limit_train_batches != 0,
        f"trainer.limit_train_batches must not be 0 in fit, which would train nothing, got {config.limit_train_batches}.",
    )
    require(
        config.log_every_n_steps is None or config.log_every_n_steps >= 0,
        f"trainer.log_every_n_steps must be at least 0, got {config.log_every_n_steps}.",
    )
    listed = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
    for callback in listed:
        if isinstance(callback, callbacks.EarlyStopping):
            _check_after_validations(callback)
        require(
            not isinstance(callback, RunCheckpoint | GradientCompression),
            f"trainer.callbacks must not have a {type(callback).__name__}: every run has one, set its options under checkpoint or compression.",
        )
        require(
            not isinstance(callback, callbacks.BatchSizeFinder | callbacks.LearningRateFinder),
            f"trainer.callbacks must not have a {type(callback).__name__}: it tries trainings of its own before this one, and what"
            " it looks for is given by data.batch_size and model.optimizer.",
        )
    # Before the Trainer counts its stateful callbacks, in words of its own.
    require_one_injection([*listed, injection])


def _check_after_validations(stopping: callbacks.EarlyStopping) -> None:
    """Let it look after validations, not at the end of an epoch, which a checkpoint of the epoch's last round precedes: a resume would lose that look."""
    require(
        not stopping._check_on_train_epoch_end,
        "trainer.callbacks: EarlyStopping.check_on_train_epoch_end must not be true: what it saw at the end of an epoch would be lost by a resume.",
    )
    stopping._check_on_train_epoch_end = False
