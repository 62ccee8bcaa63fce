"""Estimators of the meta-gradient: :class:`Replay`, and :class:`UnrolledGraph`, which it equals."""

from lightning_agg.estimators.base import Estimator, MetaGradient
from lightning_agg.estimators.replay import Replay
from lightning_agg.estimators.unrolled_graph import UnrolledGraph

__all__ = ["Estimator", "MetaGradient", "Replay", "UnrolledGraph"]
