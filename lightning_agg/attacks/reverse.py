"""The honest mean, reversed and enlarged."""

from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require_positive


class Reverse(Attack):
    r"""All attackers send :math:`-\kappa` times the mean of the honest gradients.

    With plain averaging, :math:`f` attackers of :math:`M` turn the mean round once
    :math:`\kappa > (M - f) / f`: for 3 of 10 that is 7/3, and the default is the next whole number.

    Cost: :math:`O(H d)`.

    Reference:
        Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent
        <https://arxiv.org/abs/1703.02757>`_, NeurIPS 2017, the omniscient attack of the experiments.
        There the opposite of the full gradient is sent, at a large scale that is not given.

    Args:
        scale: Factor :math:`\kappa`, above 0.

    Raises:
        SettingError: If ``scale`` is not a finite number above 0.

    Example:
        >>> import torch
        >>> Reverse(scale=3.0)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2))
        tensor([[-6., -9.],
                [-6., -9.]])
    """

    spreads_nonfinite = True

    def __init__(self, scale: float = 3.0) -> None:
        require_positive("Reverse.scale", scale)
        self.scale = scale

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """``-scale * mean(honest)``, the same for all."""
        return -self.scale * honest.mean(dim=0)
