"""The parameter server: one round of training is one training step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import comb
from typing import Any, Literal

import torch
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_agg import flat, pretrained
from lightning_agg.aggregators import CoordinateMedian
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.data.pool import RoundBatch, num_participants
from lightning_agg.errors import SettingError, require, require_count
from lightning_agg.gradients import local_update, worker_gradients
from lightning_agg.losses import mean_loss
from lightning_agg.models import MLP
from lightning_agg.modules.base import PoolModule
from lightning_agg.modules.factories import LRSchedulerFactory, ModelFactory, OptimizerFactory
from lightning_agg.modules.objective import worker_objective_gradients
from lightning_agg.modules.public import server_context
from lightning_agg.modules.worker_models import WorkerModels

LOCAL_LR = 0.1

RARE = 0.01
"""Share of rounds with more attackers than told that is nothing to tell of."""


class ParameterServer(PoolModule):
    """Trains a global model from the gradients that M workers send.

    One round: every worker computes the gradient of its batch at the global parameters; noise, compression
    and attacks change what is sent; the aggregator makes one vector of it; the server's optimizer descends that vector.

    Args:
        aggregator: Makes one ``(d,)`` vector of the ``(M, d)`` gradients.
        model: Makes the global model for a number of classes: a class whose parameter ``num_classes``, or else the first one, is that number.
        optimizer: The server's optimizer, any of ``torch.optim``.
        lr_scheduler: Schedule of its learning rate, stepped once a round (``torch.optim.lr_scheduler.ReduceLROnPlateau``: once a validation, on
            ``val/loss``); constant when null.
        momentum: Worker momentum β in [0, 1): worker i sends m_i <- β m_i + (1 - β) g_i (Karimireddy et al., ICML
            2021).
        local_steps: SGD steps L that a worker takes in a round; it sends the sum of their gradients. More than one is
            federated averaging (McMahan et al., AISTATS 2017), exactly so with ``torch.optim.SGD`` at
            ``lr = local_lr``.
        local_lr: Step size of these steps, and of ``worker_models``.
        participation: Fraction of the workers drawn for each round, in (0, 1].
        worker_models: Makes the workers' models, where these are others than the global one: of K, worker i has the one with number
            i mod K. Each must contain the global model: have at least its layers, and its tensors as the leading part of its own. A
            worker takes the global parameters over in each round, sends this part of its gradient, and descends what is left by
            itself, with step size ``local_lr`` (Ji et al., IJCAI 2019, section 5.5, where this is left open).
        gradient_samples: Samples per worker on which ``val/gradient_norm``, ``val/median_gradient_norm``,
            ``val/median_mean_gap`` (norm of their difference) and ``val/median_zeros`` (share of the coordinates whose
            median is exactly 0) are computed: ``full`` for the whole shard, 0 for none of them.
        chunk_size: Workers whose gradients a GPU computes at once, to bound memory; all when null. A CPU always takes
            one worker at a time.
        num_threads: CPU threads of each process. The last bits of a matrix product depend on their number, so the
            default gives the same run on any machine; to use more cores, spread the workers over processes with
            ``worker_parallel``. Torch's own choice when null.
        seed: Seed of the model's initial parameters; the run's seed when null.
    """

    worker_momentum: Tensor
    rounds_in_order = True
    tells_rule = True
    takes_any_loss = True
    monitored = "val/loss"

    def __init__(
        self,
        aggregator: Aggregator,
        model: ModelFactory = MLP,
        optimizer: OptimizerFactory = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerFactory | None = None,
        momentum: float = 0.0,
        local_steps: int = 1,
        local_lr: float = LOCAL_LR,
        participation: float = 1.0,
        worker_models: list[ModelFactory] | None = None,
        gradient_samples: int | Literal["full"] = "full",
        chunk_size: int | None = None,
        num_threads: int | None = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, num_threads, seed)
        require(
            isinstance(aggregator, Aggregator),
            f"model.aggregator must be an Aggregator, got {type(aggregator).__name__}.",
        )
        require(0 <= momentum < 1, f"model.momentum must be in [0, 1), got {momentum}.")
        require_count("model.local_steps", local_steps, minimum=1)
        require(local_lr > 0, f"model.local_lr must be positive, got {local_lr}.")
        require(0 < participation <= 1, f"model.participation must be in (0, 1], got {participation}.")
        if chunk_size is not None:
            require_count("model.chunk_size", chunk_size, minimum=1)
        require(
            gradient_samples == "full" or gradient_samples >= 0,
            f"model.gradient_samples must be at least 0 or full, got {gradient_samples}.",
        )
        require(worker_models != [], "model.worker_models must hold a model, or be null, got [].")
        require(
            worker_models is None or local_steps == 1,
            f"model.local_steps must be 1 with model.worker_models, got {local_steps}.",
        )
        self.aggregator = aggregator
        self.make_model = model
        self.make_worker_models = worker_models
        self.momentum = momentum
        self.local_steps = local_steps
        self.local_lr = local_lr
        self.participation = participation
        self.gradient_samples: int | Literal["full"] = gradient_samples
        self.chunk_size = chunk_size

    def setup(self, stage: str) -> None:
        """Check the settings against each other and make the model for the data."""
        super().setup(stage)
        self._check_aggregator()
        self.check_public_samples(self.aggregator)
        self.data.local_steps, self.data.participation = self.local_steps, self.participation
        self.data.episodes = None
        if hasattr(self, "model"):
            if self.momentum and len(self.worker_momentum) != self.pool_size:  # another fit, with other data
                self.worker_momentum = self.worker_momentum.new_zeros(
                    self.pool_size, self.worker_momentum.shape[1]
                )
            return
        self.aggregator.reset()  # it may have served another server
        self.model = self.build_model(self.make_model)
        self.trainable = flat.trainable(self.model)
        self.worker_models: WorkerModels | None = None
        if self.make_worker_models is not None:
            models = [
                self.build_model(factory, "model.worker_models", f"worker model/{kind}")
                for kind, factory in enumerate(self.make_worker_models)
            ]
            self.worker_models = WorkerModels(models, self.model, self.pool_size, self.local_lr)
        size = sum(p.numel() for p in self.trainable.values())
        self.register_buffer("worker_momentum", torch.zeros(self.pool_size if self.momentum else 0, size))
        self.accuracy = MulticlassAccuracy(self.num_classes, average="micro")
        self.confusion = MulticlassConfusionMatrix(self.num_classes)

    def _check_aggregator(self) -> None:
        """Require that the rule is defined for the workers of a round."""
        drawn = num_participants(self.pool_size, self.participation)
        try:
            self.aggregator.check(drawn)
        except SettingError as error:
            if drawn == self.pool_size:
                raise
            raise SettingError(
                f"model.participation draws M = {drawn} of {self.pool_size} workers for a round, for which model.aggregator is"
                f" not defined: {error}"
            ) from error

    def _tell_of_draws(self) -> None:
        """Warn where rounds may hold more attackers than the rule is told of."""
        told: int | None = getattr(self.aggregator, "num_byzantine", None)
        size, drawn, f = (
            self.pool_size,
            num_participants(self.pool_size, self.participation),
            len(self.byzantine()),
        )
        if told is None or drawn == size:
            return
        at_most = sum(comb(f, k) * comb(size - f, drawn - k) for k in range(min(told, drawn) + 1))
        more = 1 - at_most / comb(size, drawn)
        if more > RARE:
            rank_zero_warn(
                f"model.aggregator.num_byzantine should cover what a round may hold, got {told}: of {drawn} workers drawn of {size}"
                f" (model.participation = {self.participation}), of whom {f} are Byzantine, more are in {more:.0%} of the rounds."
            )

    def configure_optimizers(self) -> Any:
        """The server's optimizer, and its schedule if there is one."""
        return self.optimize(self.trainable.values(), self.make_optimizer, self.make_lr_scheduler)

    def on_fit_start(self) -> None:
        """Warn of an optimizer or of weights with which the rule is not what it is meant to be, and of a step size without steps."""
        super().on_fit_start()
        (optimizer,) = self.trainer.optimizers
        plain = isinstance(optimizer, torch.optim.SGD) and not optimizer.defaults["momentum"]
        if self.aggregator.makes_step and not plain:
            momentum = optimizer.defaults.get("momentum")
            with_momentum = f" with momentum {momentum}" if momentum else ""
            rank_zero_warn(
                f"model.optimizer should be SGD without momentum, as {type(self.aggregator).__name__} makes the whole step itself,"
                f" got {type(optimizer).__name__}{with_momentum}."
            )
        if not self.aggregator.trained:
            rank_zero_warn(
                "model.aggregator.weights should name trained weights, a file or one of"
                f" {', '.join(pretrained.names())}: the network is untrained, or its judge where they hold none (trust learned)."
            )
        if self.local_lr != LOCAL_LR and self.local_steps == 1 and self.worker_models is None:
            rank_zero_warn(
                "model.local_steps should be above 1, or model.worker_models given, where model.local_lr is set, which is for these"
                f" alone (local_lr = {self.local_lr}, local_steps = 1, worker_models = null)."
            )
        self._tell_of_draws()
        self.watch.begin(self.aggregator, self._attacks())

    def training_step(self, batch: RoundBatch, batch_idx: int) -> None:
        """One round; how long its parts take is told by ``--trainer.profiler simple``."""
        with self._profiled("worker gradients"):
            batch = self.pass_batch(batch)
            local, local_losses = self._work(batch)
        with self._profiled("gather"):
            computed = self.gather(local, batch)
            losses = self.gather(local_losses, batch)
        if self.worker_models is not None:
            computed = self.worker_models.descend(computed, batch.workers)
        gradients = computed = self._with_momentum(computed, batch)
        for name in ("on_worker_gradients", "on_compression", "on_byzantine_gradients"):
            with self._profiled(name):
                gradients = self.pass_rows(name, gradients, batch)
        context = self._context(batch.round, batch.workers)
        influence = self.aggregator.influence(gradients, context) if self.logs_round(batch) else None
        with self._profiled("aggregation"), self.watch.draws(type(self.aggregator).__name__):
            aggregate = self.aggregator(gradients, context)
        self.watch.round(self.aggregator, batch.round, computed, self._honest_rows(batch))
        with self._profiled("server step"):
            self._descend(aggregate)
        for callback in self.pool_callbacks():
            callback.on_after_aggregation(self.trainer, self, gradients, aggregate, batch)
        self._log_round(batch, losses, computed, gradients, aggregate, influence)

    def _profiled(self, part: str) -> AbstractContextManager[None]:
        profiler: Profiler = self.trainer.profiler  # type: ignore[attr-defined]
        return profiler.profile(f"[round] {part}")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy on a batch of the validation split."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Norms of the gradient of the global objective, of the median of the workers' gradients, of their difference; zeros."""
        self.log_trained_rounds()
        if self.gradient_samples != 0:
            rows = worker_objective_gradients(
                self.model, self.data.pool, self._honest(), self.gradient_samples, self.data.eval_batch_size
            )
            rule = CoordinateMedian()
            mean, median = rows.mean(0), rule(rows)
            if rule.num_nonfinite == len(rows):
                median = mean  # the rule's answer is no step, and its length no measure of convergence
            norms = {
                "val/gradient_norm": mean.norm(),
                "val/median_gradient_norm": median.norm(),
                "val/median_mean_gap": (median - mean).norm(),
                "val/median_zeros": _zeros(median),
            }
            self.log_dict(norms, sync_dist=True)
        self.advance_plateau()

    def on_test_start(self) -> None:
        """Count from zero: a Trainer may test more than once."""
        self.confusion.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss, accuracy and confusion matrix on a batch of the test set."""
        self.confusion.update(self._evaluate(batch, "test"), batch[1])

    def on_test_epoch_end(self) -> None:
        """Record the test at the round of the checkpoint."""
        self.log_trained_rounds()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Label and class probabilities ``(B, C)`` of each image."""
        images, labels = batch
        return {"label": labels, "probabilities": self.model(images).softmax(dim=1)}

    def tell_attackers(self, context: AttackContext) -> AttackContext:
        """The aggregator as it would act in this round; its memory stays as it is."""
        server = self._context(context.round, sorted(context.honest + context.byzantine))
        return replace(
            context,
            aggregate=lambda pool: self.aggregator.trial(pool, server),
            equivariance=self.aggregator.equivariance,
        )

    def resizable(self) -> list[str]:
        """The memory of the aggregator."""
        return [
            name + "." * bool(name) + buffer
            for name, module in self.named_modules()
            if isinstance(module, Aggregator)
            for buffer in module.memory()
        ]

    def _work(self, batch: RoundBatch) -> tuple[Tensor, Tensor]:
        if self.worker_models is not None:
            return self.worker_models.gradients(flat.flatten(self.trainable), batch, self.chunk_size)
        if self.local_steps == 1:
            weights = None if batch.weights is None else batch.weights[:, 0]
            return worker_gradients(
                self.model,
                batch.inputs[:, 0],
                batch.targets[:, 0],
                weights=weights,
                chunk_size=self.chunk_size,
            )
        return local_update(
            self.model,
            batch.inputs,
            batch.targets,
            self.local_lr,
            weights=batch.weights,
            chunk_size=self.chunk_size,
        )

    def _with_momentum(self, gradients: Tensor, batch: RoundBatch) -> Tensor:
        if not self.momentum:
            return gradients
        rows = list(batch.workers)
        # A worker that once computed a non-finite gradient is not non-finite for ever.
        finite = gradients.isfinite().all(dim=1, keepdim=True)
        moved = self.momentum * self.worker_momentum[rows] + (1 - self.momentum) * gradients
        self.worker_momentum[rows] = torch.where(finite, moved, self.worker_momentum[rows])
        return moved

    def _context(self, index: int, workers: Sequence[int]) -> Context:
        context = server_context(
            self.model,
            self.data.public,
            partial(flat.flatten, self.trainable),
            index,
            self.seed,
            self.local_steps,
            self.local_lr,
        )
        whole = len(workers) == self.pool_size
        indices = None if whole else torch.tensor(workers, device=self.device)
        optimizer: Any = self.optimizers()
        lr = float(optimizer.param_groups[0]["lr"])
        return replace(context, pool_size=self.pool_size, workers=indices, lr=lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Warn of a rule that remembers what no checkpoint holds."""
        super().on_save_checkpoint(checkpoint)
        self.watch.checkpoint(self.aggregator, self._attacks())

    def _descend(self, aggregate: Tensor) -> None:
        flat.set_gradients(self.trainable, aggregate)
        optimizer: Any = self.optimizers()
        optimizer.step()
        self.advance_schedule()

    def _honest_rows(self, batch: RoundBatch) -> list[int]:
        byzantine = self.byzantine()
        return [row for row, worker in enumerate(batch.workers) if worker not in byzantine]

    def _attacks(self) -> list[Attack]:
        found = (getattr(callback, "attack", None) for callback in self.pool_callbacks())
        return [attack for attack in found if isinstance(attack, Attack)]

    def _honest(self) -> list[int]:
        return sorted(set(range(self.pool_size)) - self.byzantine())

    def _log_round(
        self,
        batch: RoundBatch,
        losses: Tensor,
        computed: Tensor,
        gradients: Tensor,
        aggregate: Tensor,
        influence: Tensor | None,
    ) -> None:
        honest = self._honest_rows(batch)
        # NaN where none is drawn: Lightning would log the last round's again.
        self.log("train/loss", losses[honest].mean(), prog_bar=True, batch_size=1)
        if not self.logs_round(batch):
            return
        mean = computed[honest].mean(dim=0)
        values: dict[str, Any] = {
            "pool/cosine_to_honest_mean": F.cosine_similarity(aggregate, mean, dim=0),
            "pool/nonfinite_rows": float(self.aggregator.num_nonfinite),
            "pool/zero_votes": _zeros(gradients),
            "pool/zero_aggregate": _zeros(aggregate),
        }
        if self.make_lr_scheduler is not None:
            optimizer: Any = self.optimizers()
            values["train/lr"] = float(optimizer.param_groups[0]["lr"])
        if influence is not None:
            attackers = self.byzantine(batch.round)
            rows = [row for row, worker in enumerate(batch.workers) if worker in attackers]
            values["pool/byzantine_acceptance"] = influence[rows].sum()
        self.log_pool(values, batch)

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        images, labels = batch
        logits: Tensor = self.model(images)
        loss = mean_loss(self.model, logits, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), prog_bar=True, sync_dist=True)
        self.accuracy.update(logits, labels)
        self.log(f"{stage}/accuracy", self.accuracy, on_epoch=True, prog_bar=True, batch_size=len(labels))
        return logits


def _zeros(values: Tensor) -> Tensor:
    """Share of the entries that are exactly 0: of votes, those that abstain."""
    return (values == 0).float().mean()
