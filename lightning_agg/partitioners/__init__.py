"""Partitioners: which worker holds which training samples.

A :class:`Partitioner` takes the labels, ``(N,)``, and the number of workers, and returns one sorted array of
indices per worker. Every sample goes to exactly one worker.

=====================  ================================================================================
labels alike           :class:`IID`, :class:`QuantitySkew` (unequal sizes)
few labels per worker  :class:`ByLabel` (exclusive), :class:`LabelShards`
whole persons          :class:`ByGroup`, where the data knows them
by degrees             :class:`Dirichlet`, :class:`WorkerDirichlet`, :class:`GammaSimilarity` (equal sizes)
=====================  ================================================================================

Example:
    >>> import numpy as np
    >>> labels = np.array([0, 1, 0, 1, 2, 2])
    >>> [shard.tolist() for shard in ByLabel()(labels, pool_size=3)]
    [[0, 2], [1, 3], [4, 5]]
"""

from lightning_agg.partitioners.base import Partitioner, Shards
from lightning_agg.partitioners.by_group import ByGroup
from lightning_agg.partitioners.by_label import ByLabel
from lightning_agg.partitioners.dirichlet import Dirichlet
from lightning_agg.partitioners.gamma_similarity import GammaSimilarity
from lightning_agg.partitioners.iid import IID
from lightning_agg.partitioners.label_shards import LabelShards
from lightning_agg.partitioners.quantity_skew import QuantitySkew
from lightning_agg.partitioners.worker_dirichlet import WorkerDirichlet

__all__ = [
    "IID",
    "ByGroup",
    "ByLabel",
    "Dirichlet",
    "GammaSimilarity",
    "LabelShards",
    "Partitioner",
    "QuantitySkew",
    "Shards",
    "WorkerDirichlet",
]
