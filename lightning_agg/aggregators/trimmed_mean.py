"""The coordinate-wise trimmed mean."""

from torch import Tensor

from lightning_agg.aggregators.base import Aggregator, require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.ranks import mean_of_ranks, shares_of_ranks
from lightning_agg.errors import require_count


class TrimmedMean(Aggregator):
    r"""Mean of each coordinate without its :math:`f` smallest and :math:`f` largest values.

    Cost: :math:`O(M d \log^2 M)` comparisons, in place on blocks of columns.

    Breakdown: :math:`f`.

    Reference:
        Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
        <https://arxiv.org/abs/1803.01498>`_, ICML 2018, Definition 2, with :math:`\beta = f / M`.

    Args:
        num_byzantine: Number :math:`f` of values dropped at each end, at least 0; the pool must satisfy
            :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> TrimmedMean(num_byzantine=1)(torch.tensor([[1e9], [1.0], [2.0], [-1e9]]))
        tensor([1.5000])
    """

    equivariance = "columns"

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority(type(self).__name__, self.num_byzantine, pool_size)

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The mean of the values left in each coordinate."""
        return mean_of_ranks(gradients, *self._kept(gradients, context))

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Fraction of the values left that are the row's."""
        return shares_of_ranks(gradients, *self._kept(gradients, context))

    def _kept(self, gradients: Tensor, context: Context) -> tuple[int, int]:
        trimmed = context.remaining(self.num_byzantine)
        return trimmed, len(gradients) - trimmed
