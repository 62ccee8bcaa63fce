"""Infinities in place of gradients."""

from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext


class Infinity(Attack):
    """Sends positive infinity in every coordinate: does the server look at its input?

    Cost: :math:`O(d)`.

    Reference:
        None; the attack is common (ByzFL, ByzPy). An aggregator of this package drops such rows.

    Example:
        >>> import torch
        >>> Infinity()(torch.ones(3, 2), torch.ones(1, 2))
        tensor([[inf, inf]])
    """

    spreads_nonfinite = True

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """One row for all."""
        return own.new_full(own.shape[1:], float("inf"))
