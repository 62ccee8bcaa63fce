"""The LightningModules: :class:`ParameterServer` trains a global model, :class:`MetaLearner` an aggregator."""

from lightning_agg.modules.base import PoolModule
from lightning_agg.modules.episode import Baseline
from lightning_agg.modules.meta_learner import MetaLearner
from lightning_agg.modules.parameter_server import ParameterServer
from lightning_agg.modules.trust_training import TrustTraining

__all__ = ["Baseline", "MetaLearner", "ParameterServer", "PoolModule", "TrustTraining"]
