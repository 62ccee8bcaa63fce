"""What the episodes of a ``MetaLearner`` are."""

from abc import ABC

import torch
from torch import Tensor

from lightning_agg import flat, seeding
from lightning_agg.callbacks.base import VALIDATION_EPISODES
from lightning_agg.data.pool import WorkerPool
from lightning_agg.errors import require
from lightning_agg.modules.base import PoolModule
from lightning_agg.modules.curriculum import Curriculum
from lightning_agg.modules.factories import ModelFactory, of_classes
from lightning_agg.modules.inner_problem import STRIDE
from lightning_agg.modules.inner_tasks import InnerTasks
from lightning_agg.partitioners.base import Partitioner

TRIED = 20
"""Partitions of each partitioner that are tried before training: the sizes of shards may be drawn."""

PARTITIONERS = "model.partitioners"


class DrawnEpisodes(PoolModule, ABC):
    """A module that plays episodes, each of which is a function of (seed, episode): :class:`MetaLearner` has the settings.

    Who attacks in one, how and when is drawn by ``ByzantineInjection``.
    """

    make_model: ModelFactory
    horizons: list[int]
    curriculum: Curriculum | None
    truncation_length: int
    num_tasks: int
    pool_sizes: list[int]
    partitioners: list[Partitioner]
    parameter_scaling: float
    tasks: InnerTasks
    _pools: dict[int, tuple[int, WorkerPool]]

    @property
    def episode_sizes(self) -> list[int]:
        """How many workers an episode may have."""
        return sorted({*self.pool_sizes, self.pool_size})

    def episode_size(self, episode: int) -> int:
        """How many workers an episode has: a function of (seed, episode)."""
        if not self.pool_sizes or episode >= VALIDATION_EPISODES:
            return self.pool_size
        rng = seeding.generator(self.seed, "pool size", step=episode)
        return self.pool_sizes[int(rng.integers(len(self.pool_sizes)))]

    def round_of_episode(self, index: int) -> int:
        """Round ``index`` counted from the beginning of its episode."""
        return index % STRIDE

    def check_partitioners(self) -> None:
        """Raise :class:`~lightning_agg.errors.SettingError` if a partition of the training samples gives too small a shard."""
        for partitioner in self.partitioners:
            for seed in range(TRIED):
                self.data.divided(partitioner, seed, PARTITIONERS)

    def pool(self, episode: int) -> WorkerPool:
        """The workers' data in an episode: a function of (seed, episode)."""
        if not self.partitioners or episode >= VALIDATION_EPISODES:
            return self.data.pool
        task = episode % self.num_tasks  # which plays one after the other
        known, pool = self._pools.get(task, (-1, self.data.pool))
        if known != episode:
            rng = seeding.generator(self.seed, "shards", step=episode)
            partitioner = self.partitioners[int(rng.integers(len(self.partitioners)))]
            pool = self.data.divided(partitioner, int(rng.integers(1 << 31)), PARTITIONERS)
            self._pools[task] = episode, pool
        return pool

    def initial_parameters(self, episode: int) -> Tensor:
        """``(d,)`` fresh parameters: a function of (seed, episode)."""
        with seeding.isolated(self.seed, f"model/{episode}"):
            model = of_classes(self.make_model, self.num_classes)
            model(self.data.example)  # lazy layers
        parameters = flat.flatten(flat.trainable(model))
        size = self.tasks.size
        require(
            len(parameters) == size,
            f"model.model must be the same each time it is made, got {size} and {len(parameters)} parameters.",
        )
        return parameters

    def scaling(self, episode: int) -> Tensor | float:
        """``(d,)`` c of θ = c x: a function of (seed, episode); 1 in validation and test."""
        width = self.parameter_scaling
        if width == 0 or episode >= VALIDATION_EPISODES:
            return 1.0
        sizes = torch.tensor([p.numel() for p in flat.trainable(self.model).values()])
        rng = seeding.generator(self.seed, "parameter scaling", step=episode)
        exponents = torch.from_numpy(rng.uniform(-width, width, len(sizes)))
        return exponents.exp().repeat_interleave(sizes).to(self.tasks.theta)

    def rounds(self, episode: int) -> int:
        """How many rounds an episode has: a function of (seed, episode), and of the curriculum's stage."""
        if self.curriculum is not None:
            rounds = self.curriculum.horizon
        else:
            rng = seeding.generator(self.seed, "horizon", step=episode)
            rounds = self.horizons[int(rng.integers(len(self.horizons)))]
        if episode >= self.num_tasks:
            return rounds
        # First episodes are cut so that the tasks are at different points from then on.
        windows = rounds // self.truncation_length
        return self.truncation_length * max(1, windows * (episode + 1) // self.num_tasks)
