"""Adaptive robust clipping."""

from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.errors import require_count
from lightning_agg.preaggregators.clipping import Clipping


class AdaptiveClipping(Clipping):
    r"""Shortens the :math:`k = \lfloor 2 f (M - f) / M \rfloor` longest rows to the length of the next one.

    Cost: :math:`O(M d)`.

    Breakdown: the larger of :math:`k` and what is behind: with at most :math:`k` attackers the longest row left is an honest one.

    Reference:
        Allouah et al., `Adaptive Gradient Clipping for Robust Federated Learning
        <https://arxiv.org/abs/2405.14432>`_, ICLR 2025, adaptive robust clipping (ARC), Algorithm 2.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy :math:`2 f < M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> AdaptiveClipping(num_byzantine=1)(torch.tensor([[3.0, 0.0], [6.0, 8.0], [0.0, 5.0]]))
        tensor([[3., 0.],
                [3., 4.],
                [0., 5.]])
    """

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("AdaptiveClipping", self.num_byzantine, pool_size)

    def breakdown_point(self, pool_size: int, behind: int) -> int:
        """As many as are clipped, or more if what is behind stands them."""
        return max(self._num_clipped(pool_size, self.num_byzantine), behind)

    def longest(self, lengths: Tensor, context: Context) -> Tensor:
        """That of the longest row that is not clipped."""
        size, f = len(lengths), context.remaining(self.num_byzantine)
        return lengths.sort().values[size - 1 - self._num_clipped(size, f)]

    @staticmethod
    def _num_clipped(size: int, f: int) -> int:
        return 2 * f * (size - f) // size
