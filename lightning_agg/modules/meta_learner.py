"""Trains an aggregator."""

import math
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_agg import flat
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.callbacks.base import TEST_EPISODES, VALIDATION_EPISODES
from lightning_agg.callbacks.byzantine_injection import ByzantineInjection
from lightning_agg.callbacks.episode_curves import EpisodeCurves
from lightning_agg.data.samples import Samples
from lightning_agg.errors import SettingError, require, require_count, require_positive
from lightning_agg.estimators import Estimator, Replay
from lightning_agg.models import MLP
from lightning_agg.modules.curriculum import Curriculum
from lightning_agg.modules.drawn_episodes import DrawnEpisodes
from lightning_agg.modules.episode import Baseline, Curve, Episode, LearnedServer, Server, play
from lightning_agg.modules.factories import LRSchedulerFactory, ModelFactory, OptimizerFactory, made_optimizer
from lightning_agg.modules.inner_problem import PoolProblem
from lightning_agg.modules.inner_tasks import InnerTasks
from lightning_agg.modules.meta_gradient import mean_over_tasks
from lightning_agg.modules.public import server_context
from lightning_agg.modules.trust_training import TrustTraining
from lightning_agg.partitioners.base import Partitioner

LARGEST_SCALING = 10.0
"""exp(10) is 22,026: float32 holds the squares of what is so many times too large."""

WEIGHTS_FILE = "aggregator.safetensors"


class MetaLearner(DrawnEpisodes):
    """Trains a recurrent aggregator by truncated backpropagation through the training of a model.

    An episode trains a freshly initialised model for ``horizon`` rounds with the aggregator, under an attack, a number
    and an identity of attackers drawn anew. A training step of this module is a window of ``truncation_length`` rounds:
    the meta-loss is the sum of the honest workers' losses after each round, its derivative with respect to the
    network's weights is one step of the optimizer; model and network states are carried on to the next window.

    Validation plays whole episodes, longer than trained if you like, and logs the mean validation loss along them
    (``meta/val_loss``) and what each has come to, by attack and number of attackers
    (``val_episodes/Reverse_7/accuracy``); TensorBoard shows their curves beside those of ``baselines``. The weights of the
    best validation (of the end, if there was none) are written to ``aggregator.safetensors`` in the run's folder, for
    ``--model.aggregator Recurrent --model.aggregator.weights``. To stop when nothing gets better:
    ``--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=meta/val_loss --trainer.callbacks.patience=5``.

    Reference:
        Ji et al., *Learning to Learn Gradient Aggregation by Gradient Descent*, IJCAI 2019, section 4.2; the values it leaves
        open are those of Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*, NeurIPS 2016.

    Args:
        aggregator: The aggregator to train.
        model: Makes the model that is trained in an episode, as for ``ParameterServer``.
        optimizer: The optimizer of the aggregator's weights.
        lr_scheduler: Schedule of its learning rate, stepped once a window (``torch.optim.lr_scheduler.ReduceLROnPlateau``: once a validation, on
            ``meta/val_loss``); constant when null.
        horizon: Rounds of an episode, a multiple of ``truncation_length``; or a list from which it is drawn per episode.
        curriculum: The horizons are instead taken in increasing order: training goes on to the next one, episodes in
            progress included, after this many validations in which the loss up to it (``meta/next_horizon_loss``) has not
            improved; drawn when null.
        truncation_length: Rounds K of a window.
        num_tasks: Trainings that go on side by side, at different points of their episodes.
        estimator: How the meta-gradient is found; ``Replay`` when null.
        pool_sizes: How many workers a trained episode has, drawn from these: the first ones of the data's; all in validation, and always when null.
        partitioners: How the training samples are divided is drawn from these per trained episode, and they are divided anew; in
            validation, and always when null, as the data say.
        trust_training: How the judges of an aggregator with ``trust`` learned are trained; as ``TrustTraining`` says when null.
        final_loss_only: Whether only the loss after the last round of a window counts, instead of all.
        log_loss: Whether the meta-loss is of the logarithm of the honest workers' loss, so that every training counts alike,
            however far it is (the average log loss of Wichrowska et al., *Learned optimizers that scale and generalize*, ICML
            2017). Otherwise a loss above 1.5 times that of guessing counts as constant.
        clip_norm: The meta-gradient is scaled down to this norm.
        task_clip_norm: Before it is averaged, that of each task is scaled down to this norm, so that no unstable training drowns
            the others; not when null.
        parameter_scaling: In a trained episode each parameter tensor is θ = c x with c = exp(U(-s, s)) for this s, and x is what
            the aggregator sees and moves: gradients count c times, and its update again, and it learns to find the step size by
            itself (Lv, Jiang, Li, *Learning gradient descent: better generalization and longer horizons*, ICML 2017, section 4.1,
            where c is drawn for every coordinate with s = 3); 0 for none, at most 10.
        val_horizon: Rounds of a validation episode; twice the longest trained when null.
        val_episodes: Episodes of a validation.
        baselines: By name, an aggregator and a server's optimizer each, to be compared with: they play the same episodes, once
            in a run; none when null.
        num_threads: CPU threads of each process, as for ``ParameterServer``.
        seed: Seed of the models' initial parameters and of the episodes; the run's seed when null. That of the aggregator's weights is its own.
    """

    best_loss: Tensor
    problem: PoolProblem
    aggregator: Recurrent
    monitored = "meta/val_loss"
    validates_episodes = True
    predicts = False
    steps = "windows"

    def __init__(
        self,
        aggregator: Recurrent,
        model: ModelFactory = MLP,
        optimizer: OptimizerFactory = lambda parameters: torch.optim.Adam(parameters, lr=0.003),
        lr_scheduler: LRSchedulerFactory | None = None,
        horizon: int | list[int] = 100,
        curriculum: int | None = None,
        truncation_length: int = 20,
        num_tasks: int = 1,
        estimator: Estimator | None = None,
        pool_sizes: list[int] | None = None,
        partitioners: list[Partitioner] | None = None,
        trust_training: TrustTraining | None = None,
        final_loss_only: bool = False,
        log_loss: bool = False,
        clip_norm: float = 1.0,
        task_clip_norm: float | None = None,
        parameter_scaling: float = 0.0,
        val_horizon: int | None = None,
        val_episodes: int = 2,
        baselines: dict[str, Baseline] | None = None,
        num_threads: int | None = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, num_threads, seed)
        require(
            isinstance(aggregator, Recurrent),
            f"model.aggregator must be a Recurrent in MetaLearner, which trains it, got {type(aggregator).__name__}.",
        )
        self.horizons = list(horizon) if isinstance(horizon, list | tuple) else [horizon]
        require(len(self.horizons) > 0, "model.horizon must be a number or a list of at least one, got [].")
        for name, value in (
            ("truncation_length", truncation_length),
            ("num_tasks", num_tasks),
            ("val_episodes", val_episodes),
            ("val_horizon", 1 if val_horizon is None else val_horizon),
            *(("horizon", rounds) for rounds in self.horizons),
        ):
            require_count(f"model.{name}", value, minimum=1)
        require_positive("model.clip_norm", clip_norm)
        if task_clip_norm is not None:
            require_positive("model.task_clip_norm", task_clip_norm)
        require(
            0 <= parameter_scaling <= LARGEST_SCALING,
            f"model.parameter_scaling must be from 0 to {LARGEST_SCALING}, got {parameter_scaling}.",
        )
        for rounds in self.horizons:
            require(
                rounds % truncation_length == 0,
                "model.horizon must be a positive multiple of model.truncation_length"
                f" (horizon = {rounds}, truncation_length = {truncation_length}).",
            )
        self.aggregator = aggregator
        self.make_model = model
        self.truncation_length = truncation_length
        self.num_tasks = num_tasks
        self.estimator = estimator or Replay()
        require(
            trust_training is None or aggregator.judges is not None,
            "model.trust_training must be null unless model.aggregator.trust is learned, got"
            f" {type(trust_training).__name__}.",
        )
        self.trust_training = None if aggregator.judges is None else trust_training or TrustTraining()
        for size in pool_sizes or []:
            require_count("model.pool_sizes", size, minimum=1)
        self.pool_sizes = pool_sizes or []
        self.partitioners = partitioners or []
        self._pools = {}
        self.log_loss = log_loss
        self.clip_norm = clip_norm
        self.task_clip_norm = task_clip_norm
        self.parameter_scaling = parameter_scaling
        self.val_horizon = val_horizon or 2 * max(self.horizons)
        self.val_episodes = val_episodes
        self.curriculum = None if curriculum is None else self._make_curriculum(curriculum)
        self.baselines = baselines or {}
        self.episodes: dict[str, Episode] = {}
        weights = torch.ones(truncation_length)
        if final_loss_only:
            weights[:-1] = 0
        self.loss_weights = weights

    def setup(self, stage: str) -> None:
        """Check the settings against the data and size what a checkpoint holds."""
        super().setup(stage)
        require(
            max(self.pool_sizes, default=0) <= self.pool_size,
            f"model.pool_sizes must be at most data.pool_size (pool_sizes = {self.pool_sizes}, pool_size = {self.pool_size}).",
        )
        for size in self.episode_sizes:
            self.aggregator.check(size)
        require(
            self.trainer.world_size == 1,
            f"trainer.devices must be 1 in MetaLearner, which runs in one process, got {self.trainer.world_size} processes.",
        )
        self.check_public_samples(self.aggregator)
        self.check_partitioners()
        self._check_val_episodes()
        self.data.episodes = self.val_episodes
        self.largest_shown = 1.5 * math.log(self.num_classes)
        self.loss_cap = math.inf if self.log_loss else self.largest_shown
        self._baseline_curves: dict[tuple[str, int], dict[str, Curve]] = {}
        if hasattr(self, "model"):
            return
        self.model = self.build_model(self.make_model)
        start = flat.flatten(flat.trainable(self.model))
        dtype = next(self.aggregator.network.parameters()).dtype
        require(
            start.dtype == dtype,
            f"model.model must have parameters of the type of the aggregator's, {dtype}, got {start.dtype}.",
        )
        seen = self.aggregator.features.unseen(self.pool_size, torch.zeros(len(start)))
        self.tasks = InnerTasks(self.num_tasks, start, self.aggregator.network.state_size, seen)
        if self.trust_training is not None and self.aggregator.judges is not None:
            self.trust_training.begin(self.pool_size, self.truncation_length, len(self.aggregator.judges))
        self.register_buffer("best_loss", torch.tensor(torch.inf))
        self.problem = PoolProblem(self)
        for name, baseline in self.baselines.items():
            where = f"model.baselines.{name}"
            try:
                baseline.aggregator.check(self.pool_size)
                self.check_public_samples(baseline.aggregator)
            except SettingError as error:
                raise SettingError(f"{where}.aggregator: {error}") from error
            made_optimizer(baseline.optimizer, self.model.parameters(), f"{where}.optimizer")

    def configure_callbacks(self) -> list[Callback]:
        """The curves in TensorBoard."""
        return [EpisodeCurves()]

    def configure_optimizers(self) -> Any:
        """The optimizers of the network's weights and of the judges'; the model's own parameters are not trained."""
        optimizers, schedules = self.optimize(
            self.aggregator.network.parameters(), self.make_optimizer, self.make_lr_scheduler
        )
        training, judges = self.trust_training, self.aggregator.judges
        if training is not None and judges is not None:
            more = self.optimize(
                judges.parameters(),
                training.make_optimizer,
                training.make_lr_scheduler,
                "model.trust_training",
            )
            optimizers, schedules = optimizers + more[0], schedules + more[1]
        return optimizers, schedules

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One window of all tasks, and one step of the aggregator's weights."""
        for task in range(self.num_tasks):
            self._begin_if_finished(task)
        optimizers: Any = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        weights, before = self.loss_weights.to(self.tasks.theta), self.tasks.state
        gradients, losses, after, examples = self.estimator.window(
            self.problem, self.aggregator, before, weights, self.loss_cap, (self.seed, batch)
        )
        self.tasks.carry(after)
        parameters = list(self.aggregator.network.parameters())
        for p, gradient in zip(parameters, mean_over_tasks(gradients, self.task_clip_norm), strict=True):
            p.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        optimizer.step()
        if self.trust_training is not None and self.aggregator.judges is not None:
            self.trust_training.keep(
                examples, torch.stack([seen.judged for seen in before.seen]), before.steps
            )
            # Not Lightning's: a step of it would count as a window.
            (_, own) = self.optimizers(use_pl_optimizer=False)  # type: ignore[misc]
            loss = self.trust_training.train_judges(self.aggregator.judges, own, (self.seed, batch))
            self.log("meta/trust_loss", loss, prog_bar=True, batch_size=1)
        self.advance_schedule()
        going_on = losses[1:].isfinite().all(dim=0)
        self.log("meta/loss", losses[1:, going_on].mean(), prog_bar=True, batch_size=1)
        self.log("meta/diverged_tasks", (~going_on).sum().float(), batch_size=1)
        self.log("meta/gradient_norm", norm, batch_size=1)
        if self.curriculum is not None:
            self.log("meta/horizon", float(self.curriculum.horizon), batch_size=1)

    def on_fit_start(self) -> None:
        """Begin with no best weights where the run's folder has none: a run that goes on elsewhere leaves its own behind."""
        super().on_fit_start()
        if not (self.run_folder / WEIGHTS_FILE).exists():
            self.best_loss.fill_(torch.inf)

    def on_validation_epoch_start(self) -> None:
        """Forget the episodes of the last validation."""
        self.episodes = {}

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Play one episode from its beginning to ``val_horizon``."""
        curve = self._play(batch, self.data.val, "val")
        self.log("meta/val_loss", _finite(curve.losses.mean()), batch_size=1, prog_bar=True)
        if self.curriculum is not None:
            reached = int((curve.rounds < self.curriculum.next_horizon).sum()) + 1
            self.log("meta/next_horizon_loss", _finite(curve.losses[:reached].mean()), batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Keep the weights of the best validation."""
        self.log_trained_rounds()
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        loss = self.trainer.callback_metrics["meta/val_loss"]
        if loss < self.best_loss:
            self.best_loss.copy_(loss)
            self._export()
        elif not bool(loss.isfinite()):
            rank_zero_warn(
                f"An episode of the validation after {self.trainer.global_step} windows has diverged: no weights are kept of it"
                " (a smaller model.optimizer.lr, or model.aggregator.output_scale?)."
            )
        if self.curriculum is not None:
            self.curriculum.observe(self.trainer.callback_metrics["meta/next_horizon_loss"])
        self.advance_plateau()

    def on_train_end(self) -> None:
        """Keep the weights of the end where no validation has chosen any."""
        super().on_train_end()
        if "meta/val_loss" not in self.trainer.callback_metrics and bool(self.best_loss.isinf()):
            self._export()

    def on_test_epoch_start(self) -> None:
        """Forget the episodes of an earlier test."""
        self.episodes = {}

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Play one episode, measured on the test set."""
        self._play(batch, self.data.test, "test")

    def on_test_epoch_end(self) -> None:
        """Record the test at the meta-step of the checkpoint."""
        self.log_trained_rounds()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse one of a later stage than there are."""
        super().on_load_checkpoint(checkpoint)
        if self.curriculum is not None:
            stage = int(checkpoint["state_dict"]["curriculum.stage"])
            require(
                stage < len(self.horizons),
                f"model.horizon must have the stage that the checkpoint is in, number {stage + 1}, got {self.horizons}.",
            )

    def server_context(self, index: int, parameters: Any) -> Context:
        """What the server of an episode knows in round ``index``."""
        return server_context(self.model, self.data.public, parameters, index, self.seed)

    def _export(self) -> None:
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.run_folder.mkdir(parents=True, exist_ok=True)
            self.aggregator.save(self.run_folder / WEIGHTS_FILE)

    def _begin_if_finished(self, task: int) -> None:
        episode, step = int(self.tasks.episodes[task]), int(self.tasks.steps[task])
        if episode < 0 or step >= self.rounds(episode):
            # Task i plays the episodes i, i + T, i + 2 T, ...
            episode = task if episode < 0 else episode + self.num_tasks
            self.tasks.begin(task, episode, self.initial_parameters(episode))

    def _check_val_episodes(self) -> None:
        for injection in self._injections():
            for name, values in (
                ("val_attack", injection.val_attacks),
                ("val_num_byzantine", injection.val_counts),
            ):
                require(
                    len(values) <= self.val_episodes,
                    f"model.val_episodes must be at least the length of byzantine.{name}, of which each episode takes the next"
                    f" (val_episodes = {self.val_episodes}, length = {len(values)}).",
                )

    def _injections(self) -> Iterator[ByzantineInjection]:
        return (c for c in self.pool_callbacks() if isinstance(c, ByzantineInjection))

    def _make_curriculum(self, patience: int) -> Curriculum:
        require_count("model.curriculum", patience, minimum=1)
        increasing = sorted(set(self.horizons))
        require(
            self.horizons == increasing and len(increasing) > 1,
            f"model.horizon must be an increasing list with model.curriculum, got {self.horizons}.",
        )
        require(
            self.val_horizon >= increasing[-1],
            "model.val_horizon must reach the last horizon with model.curriculum"
            f" (val_horizon = {self.val_horizon}, horizon = {increasing[-1]}).",
        )
        return Curriculum(increasing, patience)

    @torch.inference_mode(False)  # the workers' gradients need what inference mode takes away
    @torch.no_grad()
    def _play(self, index: int, data: Samples, stage: str) -> Curve:
        number = {"val": VALIDATION_EPISODES, "test": TEST_EPISODES}[stage] + index
        start = self.initial_parameters(number).to(self.tasks.theta)

        def curve(server: Server) -> Curve:
            return play(self.problem, server, start, number, self.val_horizon, data)

        learned = curve(LearnedServer(self.aggregator, self.pool_size, start))
        if (stage, index) not in self._baseline_curves:
            self._baseline_curves[stage, index] = {
                name: curve(baseline.server(self.model, start)) for name, baseline in self.baselines.items()
            }
        episode = Episode(learned, self._baseline_curves[stage, index])
        name = self._name_episode()
        self.episodes[name] = episode
        self.log_dict(
            {f"{stage}/loss": learned.loss, f"{stage}/accuracy": learned.accuracy},
            batch_size=1,
            prog_bar=True,
        )
        for path, played in {"": learned, **{f"{k}/": v for k, v in episode.baselines.items()}}.items():
            prefix = f"{stage}_episodes/{name}/{path}"
            self.log_dict({f"{prefix}loss": played.loss, f"{prefix}accuracy": played.accuracy}, batch_size=1)
        return learned

    def _name_episode(self) -> str:
        """Attack and number of attackers of the episode just played, numbered from its second time on."""
        attackers = len(self.byzantine())
        attacks = (type(injection.attack).__name__ for injection in self._injections())
        name = f"{next(attacks, 'attack')}_{attackers}" if attackers else "no_attack"
        return next(n for n in chain([name], (f"{name}.{k}" for k in count(2))) if n not in self.episodes)


def _finite(loss: Tensor) -> Tensor:
    """Infinite where a training has diverged to no number."""
    return loss.nan_to_num(torch.inf, torch.inf)  # which else makes infinity finite
