"""Pre-aggregators: the rows of M workers, ``(M, d)``, in; the rows that an aggregator sees, ``(K, d)``, out.

>>> from lightning_agg.aggregators import Mean, PreAggregated
>>> gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1e9, 1e9]])
>>> steps = [AdaptiveClipping(num_byzantine=1), NearestNeighborMixing(num_byzantine=1)]
>>> PreAggregated(steps, Mean())(gradients)
tensor([0.3333, 0.8333])

:class:`NearestNeighborMixing` and :class:`Bucketing` bring the rows of honest workers with different data closer
together; :class:`NormClipping` and :class:`AdaptiveClipping` bound their length. ``PreAggregated`` of
:mod:`lightning_agg.aggregators` chains them before an aggregator. To write your own, see :class:`PreAggregator`.
"""

from lightning_agg.preaggregators.adaptive_clipping import AdaptiveClipping
from lightning_agg.preaggregators.base import PreAggregator
from lightning_agg.preaggregators.bucketing import Bucketing
from lightning_agg.preaggregators.clipping import Clipping
from lightning_agg.preaggregators.nearest_neighbor_mixing import NearestNeighborMixing
from lightning_agg.preaggregators.norm_clipping import NormClipping

__all__ = [
    "AdaptiveClipping",
    "Bucketing",
    "Clipping",
    "NearestNeighborMixing",
    "NormClipping",
    "PreAggregator",
]
