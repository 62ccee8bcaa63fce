"""Majority vote of signs."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import column_blocks
from lightning_agg.errors import require_choice

Ties = Literal["abstain", "positive"]


class SignMajority(Aggregator):
    r"""Sign of the sum of the rows' signs, per coordinate (signSGD with majority vote).

    The aggregate is a vector of signs: the learning rate alone sets the length of the step. With an odd
    number of non-zero rows it is the sign of :class:`CoordinateMedian` and shares its bias on heterogeneous
    data.

    Cost: :math:`O(M d)`.

    Breakdown: :math:`\lfloor (M - 1) / 2 \rfloor` in a coordinate where the honest rows agree.

    Reference:
        Bernstein et al., `signSGD with Majority Vote is Communication Efficient and Fault Tolerant
        <https://arxiv.org/abs/1810.05291>`_, ICLR 2019, Algorithm 1.

    Args:
        ties: The sign of 0, for a worker's value and for a tied vote alike: ``abstain``, 0, so that the
            coordinate does not move (the authors' reading), or ``positive``, +1, as when a sign is one bit.

    Raises:
        ValueError: If ``ties`` is neither.

    Example:
        >>> SignMajority()(torch.tensor([[1e9, -2.0, 1.0], [-1.0, -3.0, -1.0], [-2.0, 5.0, 0.0]]))
        tensor([-1., -1.,  0.])
    """

    equivariance = "signs"

    def __init__(self, ties: Ties = "abstain") -> None:
        super().__init__()
        require_choice("ties", ties, get_args(Ties))
        self.ties = ties

    def breakdown_point(self, pool_size: int) -> int:
        """A minority."""
        return (pool_size - 1) // 2

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The winning sign of each coordinate."""
        return torch.cat([self._winners(self._signs(block)) for block in column_blocks(gradients)])

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Mean over coordinates of the part in the win: winning votes share it equally; a tie has none."""
        shares = torch.zeros(len(gradients), dtype=torch.float64, device=gradients.device)
        for block in column_blocks(gradients):
            votes = self._signs(block)
            winners = self._winners(votes)
            won = (votes == winners) & (winners != 0)
            shares += (won / won.sum(dim=0).clamp(min=1)).sum(dim=1, dtype=torch.float64)
        return shares / gradients.shape[1]

    def _winners(self, votes: Tensor) -> Tensor:
        return self._signs(votes.sum(dim=0))

    def _signs(self, values: Tensor) -> Tensor:
        return (
            values.sign() if self.ties == "abstain" else torch.where(values < 0, -1.0, 1.0).to(values.dtype)
        )
