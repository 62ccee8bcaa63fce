"""Every class to as few workers as possible."""

import numpy as np

from lightning_agg.partitioners.base import Partitioner, Shards
from lightning_agg.partitioners.dealing import by_class, deal, equal_sizes


class ByLabel(Partitioner):
    r"""Gives every worker classes of its own: with as many workers as classes, worker m holds class m alone.

    With fewer workers than classes, each gets a block of consecutive classes, the lower workers one more
    where they do not come out even (3 workers, 10 classes: 4, 3, 3). With more workers than classes, each
    holds one class, which neighbouring workers share in equal parts (4 workers, 3 classes: workers 0 and 1
    halve class 0). Classes are those present, in ascending order. The seed only decides who gets what of a
    shared class; shards are as large as their classes.

    Reference:
        Chen et al., `Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms
        <https://arxiv.org/abs/1906.01736>`_, NeurIPS 2020, experiments: "each node contains some exclusive
        data for one or two out of ten categories". Which node gets which is not said there.

    Args:
        min_size: Smallest shard allowed, at least 1.
        seed: Seed of the partition alone; the run's seed when ``None``.

    Raises:
        SettingError: If ``min_size`` is below 1; in the call, if a shard is smaller.

    Example:
        >>> labels = np.array([2, 0, 1, 0, 2, 1])
        >>> [labels[shard].tolist() for shard in ByLabel()(labels, pool_size=3)]
        [[0, 0], [1, 1], [2, 2]]
        >>> [labels[shard].tolist() for shard in ByLabel()(labels, pool_size=2)]
        [[0, 1, 0, 1], [2, 2]]
    """

    def split(self, labels: np.ndarray, pool_size: int, rng: np.random.Generator) -> Shards:
        """Classes over workers, or workers over classes, whichever are more."""
        classes = self.in_order(by_class(labels, rng), rng)
        if pool_size <= len(classes):
            blocks = deal(np.arange(len(classes)), equal_sizes(len(classes), pool_size))
            return [np.concatenate([classes[index] for index in block]) for block in blocks]
        sharers = equal_sizes(pool_size, len(classes))
        return [
            shard
            for members, workers in zip(classes, sharers, strict=True)
            for shard in np.array_split(members, workers)
        ]

    def in_order(self, classes: Shards, rng: np.random.Generator) -> Shards:
        """The classes in the order in which they are dealt."""
        return classes
