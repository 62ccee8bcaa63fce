"""How large the noise of ``NoisePerturbation`` is: a plain number, or one of these."""

from lightning_agg.noise_scales.base import NoiseContext, NoiseScale
from lightning_agg.noise_scales.per_tensor_scale import PerTensorScale
from lightning_agg.noise_scales.piecewise_scale import PiecewiseScale
from lightning_agg.noise_scales.theory_scale import TheoryScale

__all__ = ["NoiseContext", "NoiseScale", "PerTensorScale", "PiecewiseScale", "TheoryScale"]
