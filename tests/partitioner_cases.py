"""One table of partitioners for all shared properties, and labels to try them on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_agg.partitioners import (
    IID,
    ByGroup,
    ByLabel,
    Dirichlet,
    GammaSimilarity,
    LabelShards,
    Partitioner,
    QuantitySkew,
    WorkerDirichlet,
)


@dataclass(frozen=True)
class PartitionerCase:
    """A partitioner and what is true of it."""

    name: str
    make: Callable[..., Partitioner]  # takes min_size and seed
    fills: bool = False  # brings small shards up to min_size
    equal: bool = False  # shards differ by 1 sample at most


CASES = [
    PartitionerCase("iid", IID, equal=True),
    PartitionerCase("by-label", ByLabel),
    PartitionerCase("by-group", ByGroup),
    PartitionerCase("label-shards", LabelShards),
    PartitionerCase("dirichlet", lambda **kwargs: Dirichlet(alpha=0.05, **kwargs), fills=True),
    PartitionerCase("worker-dirichlet", lambda **kwargs: WorkerDirichlet(alpha=0.3, **kwargs), equal=True),
    PartitionerCase("gamma-0", lambda **kwargs: GammaSimilarity(gamma=0.0, **kwargs), equal=True),
    PartitionerCase("gamma-0.3", lambda **kwargs: GammaSimilarity(gamma=0.3, **kwargs), equal=True),
    PartitionerCase("gamma-1", lambda **kwargs: GammaSimilarity(gamma=1.0, **kwargs), equal=True),
    PartitionerCase("quantity-skew", lambda **kwargs: QuantitySkew(alpha=0.05, **kwargs), fills=True),
]


def labels(number: int, num_classes: int = 10, seed: int = 0) -> np.ndarray:
    """Unbalanced labels in random order, every class present."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    drawn = rng.choice(num_classes, size=number - num_classes, p=shares)
    return rng.permutation(np.concatenate([np.arange(num_classes), drawn]))


def label_skew(shards: list[np.ndarray], targets: np.ndarray) -> float:
    """Mean over samples of the total variation between the labels of its shard and those of all, in [0, 1]."""
    num_classes = int(targets.max()) + 1
    whole = np.bincount(targets, minlength=num_classes) / len(targets)
    return sum(
        len(shard)
        / len(targets)
        * np.abs(np.bincount(targets[shard], minlength=num_classes) / len(shard) - whole).sum()
        / 2
        for shard in shards
    )
