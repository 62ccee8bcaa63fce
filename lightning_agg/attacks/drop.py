"""Messages that never arrive."""

from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext


class Drop(Attack):
    """Sends zeros, as if the message had been lost.

    Cost: :math:`O(f d)`.

    Reference:
        Ji et al., *Learning to Learn Gradient Aggregation by Gradient Descent*, IJCAI 2019, footnote 1: a
        lost message counts as a zero gradient.

    Example:
        >>> import torch
        >>> Drop()(torch.ones(3, 2), torch.ones(1, 2))
        tensor([[0., 0.]])
    """

    spreads_nonfinite = True

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """One row for all."""
        return own.new_zeros(own.shape[1:])
