"""Minimum diameter averaging."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import squared_distances
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.aggregators.smallest_diameter import smallest_diameter_subset
from lightning_agg.errors import require_count


class MinimumDiameterAveraging(SelectingAggregator):
    r"""Mean of the :math:`M - f` rows whose largest distance to each other is smallest.

    The subset is exact. It is found by forbidding pairs of rows from the farthest on, each time with a branch
    and bound for whether enough rows can stay, in place of a look at all subsets: milliseconds for
    :math:`M = 50, f = 10`. The worst case is exponential in :math:`f`.

    Cost: :math:`O(M^2 d)` for the distances; the search is exponential in :math:`f` at worst.

    Breakdown: :math:`f`.

    Reference:
        El Mhamdi et al., `Genuinely Distributed Byzantine Machine Learning <https://arxiv.org/abs/1905.03853>`_,
        PODC 2020, after Rousseeuw, *Multivariate estimation with high breakdown point*, 1985. Of several
        subsets of the same diameter we take that of the smallest next largest distance, and so on, not the
        first: only where distances are equal to the bit does it depend on the order of the rows.

    Args:
        num_byzantine: Number :math:`f` of rows left out, at least 0; the pool must satisfy :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> MinimumDiameterAveraging(num_byzantine=1)(torch.tensor([[0.0], [1.0], [1.5], [4.0]]))
        tensor([0.8333])
    """

    equivariance = "rotations"

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("MinimumDiameterAveraging", self.num_byzantine, pool_size)

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the rows of the subset."""
        size = len(gradients) - context.remaining(self.num_byzantine)
        if size == len(gradients):
            return torch.arange(size, device=gradients.device)
        distances = squared_distances(gradients).cpu()
        return torch.tensor(smallest_diameter_subset(distances, size), device=gradients.device)
