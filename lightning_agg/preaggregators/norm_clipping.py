"""Clipping to a fixed length."""

from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.errors import require_positive
from lightning_agg.preaggregators.clipping import Clipping


class NormClipping(Clipping):
    r"""Shortens each row longer than :math:`\tau` to that length: :math:`x_i \min(1, \tau / \lVert x_i \rVert)`.

    Cost: :math:`O(M d)`.

    Breakdown: :math:`M - 1`: no row is longer than :math:`\tau`, which must fit the honest rows.

    Reference:
        Static clipping, as in Allouah et al., `Adaptive Gradient Clipping for Robust Federated Learning
        <https://arxiv.org/abs/2405.14432>`_, ICLR 2025, Section 2.

    Args:
        threshold: Largest length :math:`\tau`, positive.

    Raises:
        ValueError: If ``threshold`` is not positive.

    Example:
        >>> NormClipping(threshold=5.0)(torch.tensor([[3.0, 0.0], [6.0, 8.0]]))
        tensor([[3., 0.],
                [3., 4.]])
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        require_positive("threshold", threshold)
        self.threshold = threshold

    def breakdown_point(self, pool_size: int, behind: int) -> int:
        """All but one."""
        return pool_size - 1

    def longest(self, lengths: Tensor, context: Context) -> float:
        """``threshold``."""
        return self.threshold
