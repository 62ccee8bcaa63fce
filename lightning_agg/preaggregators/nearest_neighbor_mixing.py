"""Nearest neighbor mixing."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import squared_distances
from lightning_agg.errors import require_count
from lightning_agg.preaggregators.base import PreAggregator


class NearestNeighborMixing(PreAggregator):
    r"""Replaces each row by the mean of its :math:`M - f` nearest rows, itself included.

    The lowest worker index wins among equals. It makes an aggregator optimal under heterogeneous data.

    Cost: :math:`O(M^2 d)`, and memory for the rows twice.

    Breakdown: the smaller of :math:`f` and what is behind.

    Reference:
        Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
        <https://arxiv.org/abs/2302.01772>`_, AISTATS 2023, Algorithm 2. Memory is that of the rows twice.

    Args:
        num_byzantine: Number :math:`f` of rows left out of each mean, at least 0; the pool must satisfy
            :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> NearestNeighborMixing(num_byzantine=1)(torch.tensor([[1.0], [2.0], [9.0]]))
        tensor([[1.5000],
                [1.5000],
                [5.5000]])
    """

    equivariance = "rotations"

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("NearestNeighborMixing", self.num_byzantine, pool_size)

    def breakdown_point(self, pool_size: int, behind: int) -> int:
        """As many as are told, and as what is behind stands."""
        return min(self.num_byzantine, behind)

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """Equal for the neighbours of a row, 0 for the others."""
        count = len(gradients) - context.remaining(self.num_byzantine)
        distances = squared_distances(gradients).fill_diagonal_(-1)  # a row is nearest to itself
        nearest = distances.argsort(dim=1, stable=True)[:, :count]
        return torch.zeros_like(distances).scatter_(1, nearest, 1 / count)
