"""The mean around the trimmed mean."""

from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.nearest import Center, mean_of_nearest, shares_of_nearest, trimmed_mean
from lightning_agg.aggregators.trimmed_mean import TrimmedMean


class Phocas(TrimmedMean):
    r"""Mean of the :math:`M - f` values of each coordinate that are nearest to its trimmed mean.

    :class:`Meamed` with another center: the mean without the :math:`f` smallest and the :math:`f` largest values, see
    :class:`TrimmedMean`. Of two values equally far from it the smaller is nearer.

    Cost: :math:`O(M d (\log^2 M + f))` comparisons, in place on blocks of columns.

    Breakdown: :math:`f`.

    Reference:
        Xie et al., `Phocas: dimensional Byzantine-resilient stochastic gradient descent
        <https://arxiv.org/abs/1805.09682>`_, 2018. The paper leaves open which of two values equally
        far away is nearer.

    Args:
        num_byzantine: Number :math:`f` of values left out, at least 0; the pool must satisfy :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> Phocas(num_byzantine=1)(torch.tensor([[1.0], [2.0], [4.0], [5.0], [1e9]]))
        tensor([3.])
    """

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The mean of the values left in each coordinate."""
        return mean_of_nearest(gradients, *self._nearest(gradients, context))

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Fraction of the values left that are the row's."""
        return shares_of_nearest(gradients, *self._nearest(gradients, context))

    def _nearest(self, gradients: Tensor, context: Context) -> tuple[int, Center]:
        trimmed, count = self._kept(gradients, context)
        return count, trimmed_mean(trimmed)
