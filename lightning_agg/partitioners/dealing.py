"""How indices are counted out to workers; what several partitioners share."""

import numpy as np

from lightning_agg.partitioners.base import Shards


def equal_sizes(total: int, parts: int) -> np.ndarray:
    """``total`` as ``(parts,)`` whole numbers that differ by 1 at most, the larger ones first."""
    return total // parts + (np.arange(parts) < total % parts)


def deal(indices: np.ndarray, sizes: np.ndarray) -> Shards:
    """Consecutive pieces of ``indices``, of these sizes."""
    return np.split(indices, np.cumsum(sizes)[:-1])


def deal_by_shares(indices: np.ndarray, shares: np.ndarray, offset: float = 0.5) -> Shards:
    """Consecutive pieces of ``indices`` in proportion to ``shares``, which sum to 1.

    Cuts are rounded down from ``offset`` above them: of an offset uniform on [0, 1), every piece has its share on average, and
    less than one more or less.
    """
    return np.split(indices, np.floor(np.cumsum(shares)[:-1] * len(indices) + offset).astype(np.int64))


def by_class(labels: np.ndarray, rng: np.random.Generator) -> Shards:
    """For each class that is present, in ascending order, its indices in random order."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return deal(order, np.unique(labels, return_counts=True)[1])


def fill_from_largest(shards: Shards, min_size: int, rng: np.random.Generator) -> Shards:
    """Bring every shard up to ``min_size`` with random samples of the largest ones.

    Samples are taken one after another from the shard that is then the largest, so that the fewest possible
    change hands and the large shards are levelled, not emptied.
    """
    sizes = np.array([len(shard) for shard in shards])
    goals = np.maximum(sizes, min_size)
    for _ in range(goals.sum() - sizes.sum()):
        goals[goals.argmax()] -= 1
    shards = [rng.permutation(shard) for shard in shards]
    spare = rng.permutation(np.concatenate([shard[goal:] for shard, goal in zip(shards, goals, strict=True)]))
    gifts = deal(spare, np.maximum(goals - sizes, 0))
    return [
        np.concatenate([shard[:goal], gift]) for shard, goal, gift in zip(shards, goals, gifts, strict=True)
    ]
