"""Just beyond the extremes of the honest rows, against the direction of their mean."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import deviation, wide_mean
from lightning_agg.errors import require, require_choice
from lightning_agg.seeding import uniform

Knowledge = Literal["full", "partial"]


class Fang(Attack):
    r"""Sends values just beyond the smallest or largest honest one of each coordinate, against the sign of their mean.

    The attack on coordinate-wise rules. Where the mean of the honest rows is positive, an attacker draws from
    the interval between the smallest honest value :math:`m` and :math:`b m` (:math:`m / b`, if :math:`m > 0`);
    where it is negative, between the largest, :math:`m`, and :math:`b m` (:math:`m / b`, if :math:`m < 0`). So near the
    honest values nothing looks odd, and a median or a trimmed mean is moved to the edge of them. Attackers who know
    only what they would have sent themselves (``partial``) take their mean :math:`\mu` and standard deviation :math:`\sigma` and
    draw from :math:`\mu \mp [3 \sigma, 4 \sigma]`.

    Cost: :math:`O((H + f) d)`.

    Reference:
        Fang et al., `Local Model Poisoning Attacks to Byzantine-Robust Federated Learning
        <https://www.usenix.org/conference/usenixsecurity20/presentation/fang>`_, USENIX Security 2020, Section 4.3,
        with :math:`b = 2`. The paper's intervals are those of the workers' models, and its direction that in which the
        global model moves; with gradients both turn round, and the intervals are around 0, not around the
        model, as in Blades and in the code of Shejwalkar and Houmansadr (NDSS 2021). A mean of 0 counts as positive. The paper's attack
        on Krum, Section 4.2, is the best factor along minus the sign of the mean: ``LineSearch(MinMax("sign"), Krum(f))``,
        from the mean instead of 0.

    Args:
        bound: Factor :math:`b`, above 1.
        knowledge: Of the honest rows, ``full``; or of the attackers' own answers alone, ``partial``.

    Raises:
        SettingError: If ``bound`` is not a finite number above 1, or ``knowledge`` is unknown.

    Example:
        >>> honest = torch.tensor([[1.0, -3.0], [2.0, -1.0], [4.0, 1.0]])
        >>> sent = Fang()(honest, torch.zeros(2, 2))
        >>> bool(((sent >= torch.tensor([0.5, 1.0])) & (sent <= torch.tensor([1.0, 2.0]))).all())
        True
    """

    def __init__(self, bound: float = 2.0, knowledge: Knowledge = "full") -> None:
        require(1 < bound < float("inf"), f"Fang.bound must be a finite number above 1, got {bound!r}.")
        require_choice("Fang.knowledge", knowledge, get_args(Knowledge))
        self.bound = bound
        self.knowledge = knowledge

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """A draw from the interval for each attacker and coordinate."""
        near, far = self._beyond(honest) if self.knowledge == "full" else _tail(own)
        shares = [
            uniform(own.shape[1], own.device, context.seed, "fang", worker, context.round)
            for worker in context.byzantine
        ]
        return torch.lerp(near, far, torch.stack(shares).to(near.dtype))

    def _beyond(self, honest: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the intervals, ``(d,)``: the extreme value, and beyond."""
        mean = wide_mean(honest)
        low, high = honest.aminmax(dim=0)
        near = torch.where(mean >= 0, low, high).to(mean.dtype)
        outwards = (near < 0) == (mean >= 0)
        return near, torch.where(outwards, self.bound * near, near / self.bound)


def _tail(own: Tensor) -> tuple[Tensor, Tensor]:
    """Three and four standard deviations against the mean, ``(d,)`` each."""
    mean = wide_mean(own)
    away = torch.where(mean >= 0, -deviation(own, mean), deviation(own, mean))
    return mean + 3 * away, mean + 4 * away
