"""Noise in place of gradients."""

import math

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require, require_positive
from lightning_agg.seeding import normal


class Gaussian(Attack):
    r"""Sends noise :math:`\mathcal{N}(\mu, \sigma^2 I)` that knows nothing of the gradients.

    An attacker's row depends on the seed, its place in the pool and the round alone, so it is the same
    whoever else attacks. Independent rows are far from each other, and a rule such as Krum never picks one,
    whatever their number; one shared row is a majority as soon as the attackers are.

    Cost: :math:`O(f d)`.

    Reference:
        Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent
        <https://arxiv.org/abs/1703.02757>`_, NeurIPS 2017; Xie et al., `Zeno: Distributed
        Stochastic Gradient Descent with Suspicion-based Fault-tolerance <https://arxiv.org/abs/1805.10032>`_,
        ICML 2019 (both :math:`\mu = 0`, :math:`\sigma = 200`, independent). ByzFL sends one shared row of
        deviation 1.

    Args:
        std: Standard deviation :math:`\sigma`, above 0.
        shared: Whether all attackers send one and the same row.
        mean: Mean :math:`\mu` of every coordinate.

    Raises:
        SettingError: If ``std`` is not a finite number above 0, or ``mean`` is not finite.

    Example:
        >>> attack, zeros = Gaussian(std=1.0, shared=True), torch.zeros(2, 3)
        >>> rows = attack(zeros, zeros, AttackContext(round=5))
        >>> later = attack(zeros, zeros, AttackContext(round=6))
        >>> torch.equal(rows[0], rows[1]), torch.equal(rows, later)
        (True, False)
    """

    spreads_nonfinite = True

    def __init__(self, std: float = 200.0, shared: bool = False, mean: float = 0.0) -> None:
        require_positive("Gaussian.std", std)
        require(math.isfinite(mean), f"Gaussian.mean must be a finite number, got {mean!r}.")
        self.std = std
        self.shared = shared
        self.mean = mean

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """One float32 draw for each attacker, or one for all."""
        purpose = "shared gaussian attack" if self.shared else "gaussian attack"
        workers = (0,) if self.shared else context.byzantine
        rows = [
            normal(own.shape[1], own.device, context.seed, purpose, worker, context.round)
            for worker in workers
        ]
        return torch.stack(rows).mul_(self.std).add_(self.mean)
