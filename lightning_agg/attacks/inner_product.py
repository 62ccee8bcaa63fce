"""Inner product manipulation."""

from torch import Tensor

from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import wide_mean
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.errors import require_positive


class InnerProduct(LineAttack):
    r"""All attackers send :math:`-\varepsilon` times the mean of the honest gradients (IPM).

    The aim is an aggregate whose inner product with the true gradient is negative. A small
    :math:`\varepsilon` hides among the honest rows and defeats distance rules such as Krum; against the
    mean it takes :math:`\varepsilon > (M - f) / f`. The formula is that of :class:`Reverse`; the use is not.

    Cost: :math:`O(H d)`.

    Reference:
        Xie et al., `Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation
        <https://arxiv.org/abs/1903.03936>`_, UAI 2019.
        The paper varies :math:`\varepsilon` with the rule under attack. Of the defaults in circulation (epfml
        and FLPoison 0.1, Blades 0.5, ByzantineMomentum 1, ByzFL 2) ours is the one against Krum.

    Args:
        scale: Factor :math:`\varepsilon`, above 0.

    Raises:
        SettingError: If ``scale`` is not a finite number above 0.

    Example:
        >>> import torch
        >>> InnerProduct(scale=0.5)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(1, 2))
        tensor([[-1.0000, -1.5000]])
    """

    spreads_nonfinite = True

    def __init__(self, scale: float = 0.1) -> None:
        require_positive("InnerProduct.scale", scale)
        self.scale = scale

    def line(self, honest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Zero and minus the honest mean."""
        mean = wide_mean(honest)
        return mean.new_zeros(1).expand_as(mean), -mean

    def factor(
        self, honest: Tensor, own: Tensor, origin: Tensor, direction: Tensor, context: AttackContext
    ) -> float:
        """``scale``."""
        return self.scale
