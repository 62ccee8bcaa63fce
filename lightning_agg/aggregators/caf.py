"""The covariance-bound agnostic filter."""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.spectrum import spread, top_direction
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.errors import require_count

TAKEN_OUT = 1e-6
"""A row of less weight has none: float32 does not tell it from the row that an iteration takes out."""


class CAF(WeightedAggregator):
    r"""Weighted mean that turns down the rows which stick out, until the spread is smallest.

    Each row starts with weight :math:`c_i = 1`. An iteration takes the top eigenvector :math:`v` of the
    weighted covariance and sets
    :math:`c_i \leftarrow c_i (1 - \tau_i / \max_j \tau_j)`, :math:`\tau_i = \langle v, x_i - \mu_c \rangle^2`,
    until :math:`\sum_i c_i \le M - 2 f`. The aggregate is the weighted mean :math:`\mu_c` of the iteration
    whose largest eigenvalue was smallest. No bound on the covariance of the honest rows is needed.

    Cost: :math:`O(M^2 d)` for the distances, :math:`O(M^3)` an iteration, of which there are at most :math:`M`.

    Breakdown: :math:`f`.

    Reference:
        Allouah, Guerraoui and Stephan, `Towards Trustworthy Federated Learning with Untrusted Participants
        <https://arxiv.org/abs/2505.01874>`_, ICML 2025, covariance-bound agnostic filter. Our eigenvectors are
        exact, from the distances between the rows, and not a step of the power method from a random vector;
        the largest :math:`\tau_j` is over rows of positive weight, so that each iteration takes one out, and
        its copies with it, however they are rounded. For :math:`f = 0` and for identical rows it is the mean.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> CAF(num_byzantine=1)(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 1e9]]))
        tensor([2., 0.])
    """

    equivariance = "rotations"

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("CAF", self.num_byzantine, pool_size)

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """The weights of smallest spread."""
        size, f = len(gradients), context.remaining(self.num_byzantine)
        remaining = np.ones(size)
        best, smallest = remaining / size, math.inf
        distances = spread(gradients) if f else np.zeros((size, size))
        while (total := remaining.sum()) > size - 2 * f:
            weights = remaining / total
            largest, projections = top_direction(distances, weights)
            if largest < smallest:
                best, smallest = weights, largest
            top = projections[remaining > 0].max()
            if top == 0:
                break
            remaining = remaining * (1 - projections / top)
            remaining[remaining < TAKEN_OUT] = 0
        return torch.from_numpy(best).to(gradients.device)
