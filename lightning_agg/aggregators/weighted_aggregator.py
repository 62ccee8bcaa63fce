"""Base class of the aggregators that return a weighted sum of rows."""

from abc import abstractmethod

from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import combine


class WeightedAggregator(Aggregator):
    """An aggregator of the form ``weights @ gradients``; subclasses write only :meth:`weights`."""

    @abstractmethod
    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """``(M, d)`` finite rows -> ``(M,)`` weights, at least 0, that sum to 1, or to 0: no step; called once a round."""

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The weighted sum of the rows."""
        return combine(self.weights(gradients, context), gradients)

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """The weights."""
        return self.weights(gradients, context)
