"""The mean around the median."""

from typing import get_args

from torch import Tensor

from lightning_agg.aggregators.base import Aggregator, require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.nearest import mean_of_nearest, median, shares_of_nearest
from lightning_agg.aggregators.ranks import Even
from lightning_agg.errors import require_choice, require_count


class Meamed(Aggregator):
    r"""Mean of the :math:`M - f` values of each coordinate that are nearest to its median.

    Of two values equally far from the median the smaller is nearer.

    Cost: :math:`O(M d (\log^2 M + f))` comparisons, in place on blocks of columns.

    Breakdown: :math:`f`.

    Reference:
        Xie et al., `Generalized Byzantine-tolerant SGD <https://arxiv.org/abs/1802.10116>`_, 2018,
        Definition 4, "mean around median".

    Args:
        num_byzantine: Number :math:`f` of values left out, at least 0; the pool must satisfy :math:`2 f < M`.
        even: Median of an even number of rows: ``midpoint`` of the two central values, or the ``lower`` one
            (Garfield, ByzantineMomentum).

    Raises:
        ValueError: If an argument is not as above, or ``num_byzantine`` is too large for the pool when
            called.

    Example:
        >>> Meamed(num_byzantine=2)(torch.tensor([[1e9], [1.0], [2.0], [3.0], [1e9]]))
        tensor([2.])
    """

    equivariance = "columns"

    def __init__(self, num_byzantine: int, even: Even = "midpoint") -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_choice("even", even, get_args(Even))
        self.num_byzantine = num_byzantine
        self.even = even

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("Meamed", self.num_byzantine, pool_size)

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The mean of the values left in each coordinate."""
        return mean_of_nearest(gradients, self._count(gradients, context), median(self.even))

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Fraction of the values left that are the row's."""
        return shares_of_nearest(gradients, self._count(gradients, context), median(self.even))

    def _count(self, gradients: Tensor, context: Context) -> int:
        return len(gradients) - context.remaining(self.num_byzantine)
