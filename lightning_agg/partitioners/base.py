"""Base class of all partitioners: labels in, one shard of indices per worker out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from lightning_agg.errors import require, require_method
from lightning_agg.seeding import generator, run_seed

Shards = list[np.ndarray]


class Partitioner(ABC):
    """Divides the training samples among the workers.

    To write your own, subclass and define :meth:`split`; the class is then known to the command line by
    its class path. Every partition is exhaustive unless the class says otherwise, and disjoint, which is checked.

    Args:
        min_size: Smallest shard allowed, at least 1.
        seed: Seed of the partition alone; ``data.seed`` when ``None``.
    """

    disjoint: bool = True
    """Whether no sample is given to two workers, or twice to one; a class whose partition may do that says otherwise."""

    by_group: bool = False
    """Whether it is given whom each sample comes from, in place of its label."""

    # For a class whose own __init__ does not call this one.
    min_size: int = 1
    seed: int | None = None

    def __init__(self, min_size: int = 1, seed: int | None = None) -> None:
        require(min_size >= 1, f"partitioner.min_size must be at least 1, got {min_size}.")
        self.min_size = min_size
        self.seed = seed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_method(cls, Partitioner.split)

    def __call__(self, labels: np.ndarray, pool_size: int, seed: int | None = None) -> Shards:
        """Labels ``(N,)`` -> ``pool_size`` sorted index arrays, each of at least ``min_size``.

        ``seed`` counts where the partitioner has none of its own; the run's when ``None``, too.

        Raises:
            SettingError: If there are no workers or too few samples, or a shard is too small and may not be
                filled up.
        """
        require(pool_size >= 1, f"data.pool_size must be at least 1, got {pool_size}.")
        require(
            pool_size * self.min_size <= len(labels),
            f"data.pool_size * partitioner.min_size must not exceed the number of training samples"
            f" (pool_size = {pool_size}, min_size = {self.min_size}, samples = {len(labels)}).",
        )
        rng = generator(
            run_seed(seed if self.seed is None else self.seed), f"partition/{type(self).__name__}"
        )
        split = self.split(np.asarray(labels), pool_size, rng)
        require(
            isinstance(split, Iterable),
            f"{type(self).__name__}.split must return {pool_size} arrays of indices, got {type(split).__name__}.",
        )
        shards = self.fill([np.asarray(shard) for shard in split], rng)
        for worker, shard in enumerate(shards):
            _check_indices(f"{type(self).__name__} gives worker {worker}", shard, len(labels))
            require(
                len(shard) >= self.min_size,
                f"{type(self).__name__} gives worker {worker} a shard of {len(shard)} samples, fewer than"
                f" partitioner.min_size = {self.min_size}: use fewer workers, or another partitioner or seed.",
            )
        samples, counts = np.unique(np.concatenate(shards), return_counts=True)
        require(
            not self.disjoint or counts.max() == 1,
            f"{type(self).__name__} must give each sample to one worker, or have disjoint = False: sample"
            f" {samples[counts.argmax()]} is given {counts.max()} times.",
        )
        return [np.sort(shard) for shard in shards]

    @abstractmethod
    def split(self, labels: np.ndarray, pool_size: int, rng: np.random.Generator) -> Shards:
        """``pool_size`` arrays of indices into ``labels``, in worker order; called once a run."""

    def fill(self, shards: Shards, rng: np.random.Generator) -> Shards:
        """Bring small shards up to ``min_size``; the default leaves them, and the call then refuses them."""
        return shards


def _check_indices(who: str, shard: np.ndarray, size: int) -> None:
    """Check that a shard holds indices of ``size`` samples."""
    fits = shard.ndim == 1 and (len(shard) == 0 or np.issubdtype(shard.dtype, np.integer))
    require(fits, f"{who} an array of {shard.dtype} of shape {shard.shape}: it must hold indices of samples.")
    known = len(shard) == 0 or 0 <= shard.min() <= shard.max() < size
    require(
        known,
        f"{who} indices from {shard.min(initial=0)} to {shard.max(initial=0)}: they must be below {size}.",
    )
