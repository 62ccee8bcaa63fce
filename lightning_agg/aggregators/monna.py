"""MoNNA's aggregation: the mean of the rows nearest to a trusted one."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import distances_to
from lightning_agg.aggregators.ranks import mean_of_ranks
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.errors import require, require_count


class MoNNA(SelectingAggregator):
    r"""Mean of the :math:`M - f` rows nearest to the row of a trusted worker, its own included.

    The lowest worker index wins among equals. Where the trusted worker takes no part in a round, or its row is not
    finite, the coordinate-wise median stands in for it.

    Cost: :math:`O(M d)`.

    Breakdown: :math:`f`, as long as the trusted worker is honest.

    Reference:
        Farhadkhani et al., `Robust Collaborative Learning with Linear Gradient Overhead
        <https://arxiv.org/abs/2209.10931>`_, ICML 2023, "nearest neighbour averaging": there each worker
        trusts itself; here the server trusts one.

    Args:
        num_byzantine: Number :math:`f` of rows left out, at least 0; the pool must satisfy :math:`2 f < M`.
        reference: Index of the trusted worker in the pool, from 0; must be less than the number M of rows of a round.

    Raises:
        ValueError: If an argument is not as above, or a number is too large for the pool when called.

    Example:
        >>> MoNNA(num_byzantine=1, reference=2)(torch.tensor([[1.0], [2.0], [3.0], [1e9]]))
        tensor([2.])
    """

    equivariance = "rotations"
    remembers_workers = True

    def __init__(self, num_byzantine: int, reference: int = 0) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_count("reference", reference)
        self.num_byzantine = num_byzantine
        self.reference = reference

    def check(self, pool_size: int) -> None:
        """Require 2 f < M and reference < M."""
        reference = self.reference
        require_minority("MoNNA", self.num_byzantine, pool_size)
        require(
            reference < pool_size,
            f"MoNNA: reference must satisfy reference < M (reference = {reference}, M = {pool_size}).",
        )

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the nearest rows, nearest first."""
        distances = distances_to(gradients, self._trusted(gradients, context))
        count = len(gradients) - context.remaining(self.num_byzantine)
        return distances.argsort(stable=True)[:count]

    def _trusted(self, gradients: Tensor, context: Context) -> Tensor:
        if context.finite is None and context.workers is None:
            return gradients[self.reference]
        size = len(gradients) if context.finite is None else len(context.finite)
        workers = torch.arange(size) if context.workers is None else context.workers.cpu()
        sent = workers == self.reference
        if context.finite is not None:
            sent = sent[context.finite.cpu()]
        if not bool(sent.any()):
            return mean_of_ranks(gradients, (len(gradients) - 1) // 2, len(gradients) // 2 + 1)
        return gradients[int(sent.nonzero())]
