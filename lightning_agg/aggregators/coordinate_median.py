"""The coordinate-wise median."""

from typing import get_args

from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.ranks import Even, mean_of_ranks, shares_of_ranks
from lightning_agg.errors import require_choice


class CoordinateMedian(Aggregator):
    r"""Median of each coordinate over the workers (medianSGD), robust while a minority is Byzantine.

    It needs no number of attackers. With heterogeneous data it is biased: the median of honest rows is not
    their mean (Chen et al. 2020); noise on the rows, ``NoisePerturbation``, closes the gap.

    Cost: :math:`O(M d \log^2 M)` comparisons, in place on blocks of columns.

    Breakdown: :math:`\lfloor (M - 1) / 2 \rfloor` (Lopuhaä and Rousseeuw, Annals of Statistics 1991).

    Reference:
        Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
        <https://arxiv.org/abs/1803.01498>`_, ICML 2018, Definition 1.
        Chen et al., `Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms
        <https://arxiv.org/abs/1906.01736>`_, NeurIPS 2020, Algorithm 2.

    Args:
        even: The median of an even number of values: ``midpoint``, the mean of the two middle ones, or
            ``lower``, the smaller of them (``torch.median``).

    Raises:
        ValueError: If ``even`` is neither.

    Example:
        >>> CoordinateMedian()(torch.tensor([[1.0], [2.0], [5.0], [1e9]]))
        tensor([3.5000])
        >>> CoordinateMedian(even="lower")(torch.tensor([[1.0], [2.0], [5.0], [1e9]]))
        tensor([2.])
    """

    equivariance = "columns"

    def __init__(self, even: Even = "midpoint") -> None:
        super().__init__()
        require_choice("even", even, get_args(Even))
        self.even = even

    def breakdown_point(self, pool_size: int) -> int:
        """A minority."""
        return (pool_size - 1) // 2

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The median over workers."""
        return mean_of_ranks(gradients, *self._middle(len(gradients)))

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Fraction of the coordinates in which a row is the median; the two middle ones get half each."""
        return shares_of_ranks(gradients, *self._middle(len(gradients)))

    def _middle(self, size: int) -> tuple[int, int]:
        first = (size - 1) // 2
        return first, first + 1 if self.even == "lower" else size // 2 + 1
