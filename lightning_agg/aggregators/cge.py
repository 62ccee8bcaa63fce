"""Comparative gradient elimination."""

from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import norms
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.errors import require_count


class CGE(SelectingAggregator):
    r"""Mean of the :math:`M - f` shortest rows: comparative gradient elimination.

    The lowest worker index wins among equals. An attacker that sends short rows is not noticed.

    Cost: :math:`O(M d)`.

    Breakdown: :math:`f`.

    Reference:
        Gupta, Liu and Vaidya, `Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient
        Descent (SGD) and Norm-Based Comparative Gradient Elimination (CGE)
        <https://arxiv.org/abs/2008.04699>`_, DSN Workshops 2021. We take the mean of the rows, not the sum.

    Args:
        num_byzantine: Number :math:`f` of rows left out, at least 0; the pool must satisfy :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> CGE(num_byzantine=1)(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-9.0, 9.0]]))
        tensor([0.5000, 1.0000])
    """

    equivariance = "rotations"
    ranks_lengths = True

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("CGE", self.num_byzantine, pool_size)

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the shortest rows, shortest first."""
        count = len(gradients) - context.remaining(self.num_byzantine)
        return norms(gradients).argsort(stable=True)[:count]
