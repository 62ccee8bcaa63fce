"""The gradient with the opposite sign."""

from typing import Literal

from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require, require_positive


class SignFlip(Attack):
    r"""Sends :math:`-\kappa` times a gradient: the attacker's own, or the mean of the honest ones.

    Cost: :math:`O(f d)` (``own``) or :math:`O(H d)` (``mean``).

    Reference:
        Li et al., `RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
        Heterogeneous Datasets <https://arxiv.org/abs/1811.03761>`_, AAAI 2019, experiments.
        The field disagrees about the gradient that is flipped: each attacker's own in Blades and FLPoison
        (``own``), the mean of the honest workers in ByzFL (``mean``).

    Args:
        of: The gradient that is flipped.
        scale: Factor :math:`\kappa`, above 0.

    Raises:
        SettingError: If ``of`` is unknown or ``scale`` is not a finite number above 0.

    Example:
        >>> import torch
        >>> honest, own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, -6.0]])
        >>> SignFlip()(honest, own)
        tensor([[-5.,  6.]])
        >>> SignFlip(of="mean")(honest, own)
        tensor([[-2., -3.]])
    """

    spreads_nonfinite = True

    def __init__(self, of: Literal["own", "mean"] = "own", scale: float = 1.0) -> None:
        require(of in ("own", "mean"), f"SignFlip.of must be own or mean, got {of!r}.")
        require_positive("SignFlip.scale", scale)
        self.of = of
        self.scale = scale

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """``-scale * own`` or ``-scale * mean(honest)``."""
        return -self.scale * (own if self.of == "own" else honest.mean(dim=0))
