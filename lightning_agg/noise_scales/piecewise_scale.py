"""Noise that changes at given rounds."""

from bisect import bisect_right
from math import isfinite

from torch import Tensor

from lightning_agg.errors import require
from lightning_agg.noise_scales.base import NoiseContext, NoiseScale


class PiecewiseScale(NoiseScale):
    """One constant scale after the other: ``values[i]`` from round ``milestones[i - 1]`` on.

    Args:
        values: Standard deviations b, each at least 0, one more than milestones.
        milestones: Rounds at which the next value begins, ascending, the first above 0.

    Raises:
        SettingError: If a value is negative or not finite, or the milestones do not ascend or do not fit the values.

    Example:
        >>> scale = PiecewiseScale([0.1, 0.01], [3])
        >>> [scale(None, NoiseContext(index, None, ())) for index in range(5)]
        [0.1, 0.1, 0.1, 0.01, 0.01]
    """

    scheduled = True

    def __init__(self, values: list[float], milestones: list[int]) -> None:
        require(
            all(isfinite(value) and value >= 0 for value in values),
            f"noise.scale.values must be finite and at least 0, got {values}.",
        )
        require(
            all(a < b for a, b in zip([0, *milestones], milestones, strict=False)),
            f"noise.scale.milestones must ascend and begin above 0, got {milestones}.",
        )
        require(
            len(values) == len(milestones) + 1,
            "noise.scale.values must be one more than noise.scale.milestones"
            f" (values = {len(values)}, milestones = {len(milestones)}).",
        )
        self.values = values
        self.milestones = milestones

    def __call__(self, gradients: Tensor, context: NoiseContext) -> float:
        """The value of the round."""
        return self.values[bisect_right(self.milestones, context.round)]
