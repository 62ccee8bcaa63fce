"""The samples of a person, a device or a writer stay together."""

import numpy as np

from lightning_agg.partitioners.base import Shards
from lightning_agg.partitioners.by_label import ByLabel


class ByGroup(ByLabel):
    """Gives every worker whole groups of samples, such as those of one person, writer, device or hospital.

    The data says which group a sample is of. As :class:`ByLabel`, with groups in place of labels and in random order: with as many workers as
    groups each has one, with fewer workers each has a random set of as many groups, one more or less, and with more workers than groups
    several share one.

    Reference:
        The partition of LEAF: Caldas et al., `LEAF: A Benchmark for Federated Settings
        <https://arxiv.org/abs/1812.01097>`_, 2018, section 3, in which a client is the writer, speaker or account that the samples come from.

    Args:
        min_size: Smallest shard allowed, at least 1.
        seed: Seed of the partition alone; the run's seed when ``None``.

    Raises:
        SettingError: If ``min_size`` is below 1; in the call, if a shard is smaller; in a run, if the data knows no groups.

    Example:
        >>> writers = np.array([7, 7, 3, 5, 5, 5])
        >>> sorted(writers[shard].tolist() for shard in ByGroup()(writers, pool_size=3))
        [[3], [5, 5, 5], [7, 7]]
    """

    by_group = True

    def in_order(self, classes: Shards, rng: np.random.Generator) -> Shards:
        """Groups in random order."""
        return [classes[index] for index in rng.permutation(len(classes))]
