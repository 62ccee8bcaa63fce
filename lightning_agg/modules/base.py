"""What every LightningModule of the pool shares: checks, the global model, the callbacks of a round."""

from abc import ABC
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_agg import seeding
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks.context import AttackContext
from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.callbacks.run_checkpoint import RunCheckpoint, should_be_large
from lightning_agg.data.base import PoolDataModule
from lightning_agg.data.pool import RoundBatch
from lightning_agg.errors import SettingError, require, require_count, require_tensor
from lightning_agg.losses import owns_loss
from lightning_agg.memory import put_buffer
from lightning_agg.modules.factories import (
    LRSchedulerFactory,
    ModelFactory,
    OptimizerFactory,
    made_model,
    made_optimizer,
    told_of_the_schedule,
)
from lightning_agg.modules.watch import Watch

AVERAGING = tuple(
    getattr(lightning_callbacks, name)
    for name in ("StochasticWeightAveraging", "WeightAveraging")
    if hasattr(lightning_callbacks, name)
)
"""Callbacks that keep averages of the weights; the second is not in every Lightning that serves."""


MOST_THREADS = 4096
"""More end the process, without a word of the setting."""


class PoolModule(L.LightningModule, ABC):
    """A LightningModule whose data is divided among workers.

    Args:
        optimizer: Makes the optimizer of what is trained.
        lr_scheduler: Makes the schedule of its learning rate, stepped once a training step (``torch.optim.lr_scheduler.ReduceLROnPlateau``: once a
            validation); constant when null.
        num_threads: CPU threads of each process. The last bits of a matrix product depend on their number, so the
            default gives the same run on any machine; to use more cores, spread the workers over processes with
            ``worker_parallel``. Torch's own choice when null.
        seed: Seed of the model's initial parameters; the run's seed when null.
    """

    model: nn.Module
    """The global model, once :meth:`setup` has made it."""

    rounds_in_order: bool = False
    """Whether each round comes once and in order, so that an attack may remember the ones before."""

    takes_any_loss: bool = False
    """Whether a model with a loss of its own can be trained, and not by cross entropy alone."""

    validates_episodes: bool = False
    """Whether validation and test play whole trainings, with attackers."""

    tells_rule: bool = False
    """Whether attackers are told the aggregator, see :meth:`tell_attackers`."""

    predicts: bool = True
    """Whether there is something to predict."""

    steps: str = "rounds"
    """What a training step is called."""

    participation: float = 1.0
    """Fraction of the workers that takes part in a round."""

    monitored: str
    """The figure of a validation on which ``ReduceLROnPlateau`` looks."""

    def __init__(
        self,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None = None,
        num_threads: int | None = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if num_threads is not None:
            require_count("model.num_threads", num_threads, minimum=1)
            require(
                num_threads <= MOST_THREADS,
                f"model.num_threads must be at most {MOST_THREADS}, got {num_threads}.",
            )
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.num_threads = num_threads
        self.seed = seeding.run_seed(seed)
        self.automatic_optimization = False
        self.watch = Watch()
        self._schedules: dict[str, LRScheduler] = {}
        self._resumed_optimizers: list[str] | None = None
        self._resumed_memory: dict[str, Tensor] = {}
        self.trained_rounds = 0
        self.validated_rounds = 0

    @property
    def data(self) -> PoolDataModule:
        """The datamodule of the trainer."""
        data: PoolDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def pool_size(self) -> int:
        """Number M of workers."""
        return self.data.pool_size

    @property
    def num_classes(self) -> int:
        """Number of classes of the data."""
        return self.data.num_classes

    def setup(self, stage: str) -> None:
        """Check that data, strategy and callbacks fit."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, PoolDataModule):
            raise SettingError(f"data must be a PoolDataModule, got {type(data).__name__}.")
        strategy = self.trainer.strategy
        require(
            self.trainer.world_size == 1 or hasattr(strategy, "gather_workers"),
            "trainer.strategy must be worker_parallel where there is more than one process: others average .grad in"
            f" backward, which no round calls, and the processes drift apart (strategy = {type(strategy).__name__},"
            f" processes = {self.trainer.world_size}).",
        )
        require(
            getattr(self.trainer.precision_plugin, "scaler", None) is None,
            "trainer.precision must be bf16-mixed, 32-true or another without a gradient scaler, got 16-mixed: the workers' gradients are"
            " computed and aggregated as they are.",
        )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            require(
                not isinstance(callback, AVERAGING),
                f"trainer.callbacks must not have a {type(callback).__name__}: it copies the module before the model is made, and its"
                " averages are not part of the state that a killed run goes on from.",
            )
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self.num_threads or self._threads_before)

    def teardown(self, stage: str) -> None:
        """Give the threads back."""
        torch.set_num_threads(self._threads_before)

    def build_model(
        self, make: ModelFactory, setting: str = "model.model", purpose: str = "model"
    ) -> nn.Module:
        """The model for the data at hand that a setting asks for, initialised from (seed, purpose) alone.

        Raises:
            SettingError: If the model cannot be trained by this module, or does not fit the inputs.
        """
        with seeding.isolated(self.seed, purpose):
            model = made_model(make, self.num_classes, self.data.example, setting)
        require(
            self.takes_any_loss or not owns_loss(model),
            f"{setting} must be trained by cross entropy in {type(self).__name__}; {type(model).__name__} has a loss"
            " of its own.",
        )
        return model

    def optimize(
        self,
        parameters: Iterable[nn.Parameter],
        make_optimizer: OptimizerFactory,
        make_lr_scheduler: LRSchedulerFactory | None,
        setting: str = "model",
    ) -> tuple[list[Any], list[Any]]:
        """What ``configure_optimizers`` returns for ``parameters``: an optimizer, and a schedule if there is one.

        Raises:
            SettingError: If optimizer or schedule do not accept their values.
        """
        optimizer = made_optimizer(make_optimizer, parameters, f"{setting}.optimizer")
        if make_lr_scheduler is None:
            return [optimizer], []
        setting = f"{setting}.lr_scheduler"
        with told_of_the_schedule(setting):
            self._schedules[setting] = schedule = make_lr_scheduler(optimizer)
            schedule.state_dict()  # LambdaLR has none with a built-in function
        return [optimizer], [schedule]

    def advance_schedule(self) -> None:
        """Count a training step."""
        for setting, scheduler in self._schedules.items():
            if not isinstance(scheduler, ReduceLROnPlateau):
                with told_of_the_schedule(setting):
                    scheduler.step()

    def advance_plateau(self) -> None:
        """Show a validation of the training to a schedule that waits for one."""
        for setting, scheduler in self._schedules.items() if self.trainer.state.fn == "fit" else ():
            if isinstance(scheduler, ReduceLROnPlateau):
                # lightning.pytorch.cli has one that names it.
                name = getattr(scheduler, "monitor", self.monitored)
                self._require_logged(f"{setting}.monitor", name)
                if not self.trainer.sanity_checking:
                    scheduler.step(self.trainer.callback_metrics[name])

    def _require_logged(self, setting: str, name: str) -> None:
        logged = self.trainer.callback_metrics
        require(
            name in logged,
            f"{setting} must be a value logged in validation, got {name!r}; logged are {', '.join(sorted(logged))}.",
        )

    def check_public_samples(self, aggregator: Aggregator) -> None:
        """Require that the server holds the public samples that ``aggregator`` asks for in a round."""
        public_size = len(self.data.public)
        require(
            aggregator.public_samples <= public_size,
            f"data.public_size must be at least the public samples that {type(aggregator).__name__} needs in a"
            f" round (public_size = {public_size}, needed = {aggregator.public_samples}).",
        )

    def tell_attackers(self, context: AttackContext) -> AttackContext:
        """The context of a round, with what attackers may know of the server: nothing, unless a subclass tells."""
        return context

    def pool_callbacks(self) -> Iterator[PoolCallback]:
        """The callbacks of the trainer that have hooks inside a round."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PoolCallback):
                yield callback

    def pass_batch(self, batch: RoundBatch) -> RoundBatch:
        """What the callbacks make of the batches of a round, one after another.

        Raises:
            SettingError: If one of them returns something else, or batches of other workers.
        """
        for callback in self.pool_callbacks():
            with self.watch.draws(f"{callback.who} in on_worker_batch"):
                made = callback.on_worker_batch(self.trainer, self, batch)
            name, size = f"{type(callback).__name__}.on_worker_batch", len(batch.local)
            require(
                isinstance(made, RoundBatch), f"{name} must return a RoundBatch, got {type(made).__name__}."
            )
            require(
                made[:3] == batch[:3] and len(made.inputs) == len(made.targets) == size,
                f"{name} must return inputs and targets of the same {size} workers, got {len(made.inputs)} and {len(made.targets)} of"
                f" workers {made.local} in round {made.round}.",
            )
            batch = made
        return batch

    def pass_rows(self, hook: str, gradients: Tensor, batch: RoundBatch) -> Tensor:
        """What the callbacks make of ``gradients`` ``(M, d)`` in a hook of this name, one after another.

        Raises:
            SettingError: If one of them returns something else than such a matrix.
        """
        for callback in self.pool_callbacks():
            with self.watch.draws(f"{callback.who} in {hook}"):
                made = getattr(callback, hook)(self.trainer, self, gradients, batch)
            require_tensor(f"{type(callback).__name__}.{hook}", made, gradients.shape, gradients.dtype)
            gradients = made
        return gradients

    @property
    def episode_sizes(self) -> list[int]:
        """How many workers an episode may have."""
        return [self.pool_size]

    def episode_size(self, episode: int) -> int:
        """How many workers an episode has: all."""
        return self.pool_size

    def round_of_episode(self, index: int) -> int:
        """Round ``index`` counted from the beginning of what is trained: a run is one episode."""
        return index

    def byzantine(self, index: int | None = None) -> frozenset[int]:
        """Pool-wide indices of the workers that a callback makes Byzantine; of those that attack in round ``index`` alone, if given."""
        callbacks = self.pool_callbacks()
        step = None if index is None else self.round_of_episode(index)
        return frozenset().union(*(c.byzantine for c in callbacks if step is None or c.active(step)))

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its files, whatever its loggers are."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCheckpoint) and callback.folder is not None:
                return callback.folder.parent
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def gather(self, local: Tensor, batch: RoundBatch) -> Tensor:
        """This process's rows ``(m, ...)`` -> the rows of all workers of the round ``(M, ...)``."""
        gather_workers = getattr(self.trainer.strategy, "gather_workers", None)
        if gather_workers is None or self.trainer.world_size == 1:
            return local
        gathered: Tensor = gather_workers(local, len(batch.workers))
        return gathered

    def logs_round(self, batch: RoundBatch) -> bool:
        """Whether the Trainer writes what is logged in this round."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (batch.round + 1) % every == 0

    def log_pool(self, values: dict[str, Any], batch: RoundBatch) -> None:
        """Log figures of a round, in the rounds that the Trainer writes."""
        if self.logs_round(batch):
            self.log_dict(values, batch_size=1)

    def on_validation_end(self) -> None:
        """Remember when that was; before training, tell of what Lightning would tell after a part of it."""
        self.validated_rounds = self.trainer.global_step
        if self.trainer.sanity_checking:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping) and not callback._check_on_train_epoch_end:
                    self._require_logged("trainer.callbacks.monitor", callback.monitor)

    def on_train_end(self) -> None:
        """Remember how many rounds the model has seen, for a test that follows."""
        self.trained_rounds = self.trainer.global_step

    def log_trained_rounds(self) -> None:
        """Put what validate and test log at the round of the checkpoint: Lightning itself would say 0."""
        if self.trainer.state.fn != "fit":
            self.log("step", float(self.trained_rounds), sync_dist=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tensors are not those of this configuration, or one without a Trainer."""
        kind = type(self).__name__
        require(
            self._trainer is not None,
            f"{kind}.load_from_checkpoint cannot make a model, which is made for the data at hand: use Trainer().validate(module,"
            f" datamodule=..., ckpt_path=...) with a new {kind}; module.model is then that of the checkpoint.",
        )
        # Lightning does so after loading, and would have rounded what it loads: 64-true.
        self.trainer.precision_plugin.convert_module(self)
        self.trained_rounds = int(checkpoint["global_step"])
        self._resumed_optimizers = checkpoint.get("optimizers")
        memory = set(self.resizable())
        saved = checkpoint.get("state_dict", {})
        self._resumed_memory = {name: saved[name] for name in memory & saved.keys()}
        expected, stored = (
            {name: "of any size" if name in memory else _shape(t) for name, t in state.items()}
            for state in (self.state_dict(), saved)
        )
        for name in sorted(expected.keys() | stored.keys()):
            require(
                expected.get(name) == stored.get(name),
                f"ckpt_path must be a checkpoint of this configuration: {name} is"
                f" {stored.get(name, 'missing')} in the checkpoint and {expected.get(name, 'missing')} here. (What it was made with is in"
                " config.yaml of its run.)",
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whose state is in the checkpoint."""
        checkpoint["optimizers"] = [type(optimizer).__name__ for optimizer in self.trainer.optimizers]

    def on_fit_start(self) -> None:
        """Refuse the state of another optimizer before it is loaded; warn of what takes a rising accuracy for a failure."""
        here = [type(optimizer).__name__ for optimizer in self.trainer.optimizers]
        require(
            self._resumed_optimizers in (None, here),
            "ckpt_path must be a checkpoint of this optimizer, to go on with it: it is"
            f" {', '.join(self._resumed_optimizers or ())} in the checkpoint and {', '.join(here)} here.",
        )
        self._resumed_optimizers = None
        # Lightning has rounded it since it was loaded: bf16-true.
        for name, buffer in self._resumed_memory.items():
            put_buffer(self, name, buffer.to(self.device))
        self._resumed_memory = {}
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        stopping = [("trainer.callbacks", c) for c in callbacks if isinstance(c, EarlyStopping)]
        waiting: list[tuple[str, Any]] = [
            (setting, s) for setting, s in self._schedules.items() if hasattr(s, "monitor")
        ]
        for setting, told in stopping + waiting:
            if told.mode == "min" and should_be_large(told.monitor):
                rank_zero_warn(
                    f"{setting}.mode should be max where {setting}.monitor is {told.monitor}, got min, Lightning's default:"
                    f" {type(told).__name__} waits for it to fall."
                )

    def resizable(self) -> list[str]:
        """Names in the state dict whose size is only known once they have been used."""
        return []


def _shape(value: object) -> object:
    """Of a tensor; what a module keeps besides its tensors is of any shape."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
