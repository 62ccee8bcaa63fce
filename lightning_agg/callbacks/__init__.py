"""What happens around a round: attacks, noise, compression, records."""

from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.callbacks.byzantine_injection import ByzantineInjection
from lightning_agg.callbacks.episode_curves import EpisodeCurves
from lightning_agg.callbacks.gradient_compression import GradientCompression
from lightning_agg.callbacks.gradient_study import GradientStudy
from lightning_agg.callbacks.noise_perturbation import NoisePerturbation
from lightning_agg.callbacks.prediction_table import PredictionTable
from lightning_agg.callbacks.run_checkpoint import RunCheckpoint
from lightning_agg.callbacks.run_record import RunRecord
from lightning_agg.callbacks.validation_interval import ValidationInterval
from lightning_agg.callbacks.worker_study import WorkerStudy

__all__ = [
    "ByzantineInjection",
    "EpisodeCurves",
    "GradientCompression",
    "GradientStudy",
    "NoisePerturbation",
    "PoolCallback",
    "PredictionTable",
    "RunCheckpoint",
    "RunRecord",
    "ValidationInterval",
    "WorkerStudy",
]
