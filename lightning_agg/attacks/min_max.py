"""As far from the honest mean as the honest rows are from each other."""

from typing import get_args

from torch import Tensor

from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import Perturbation, inner_products, last_root, perturbation, wide_mean
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.errors import require


class MinMax(LineAttack):
    r"""All attackers send :math:`\mu + \gamma p`, no farther from any honest row than two honest rows are apart.

    :math:`\mu` is the mean of the honest rows, :math:`p` a direction away from it, and :math:`\gamma` the
    largest number with :math:`\max_i \lVert \mu + \gamma p - x_i \rVert \le \max_{i, j} \lVert x_i - x_j
    \rVert`. The attack knows no aggregator; :class:`LineSearch` over it is the one that does.

    Cost: :math:`O(H^2 d)`.

    Reference:
        Shejwalkar and Houmansadr, `Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
        for Federated Learning <https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing
        -model-poisoning-attacks-and-defenses-for-federated-learning/>`_, NDSS 2021, Section IV-C.
        The authors halve a step from 10 and test the distances each time, which finds no :math:`\gamma` above
        20 and is 1e-5 short. Here :math:`\gamma` is the smallest of the H roots that the inner products give.

    Args:
        perturbation: Direction :math:`p`: ``std``, minus the standard deviations over workers; ``unit``, minus
            the mean; ``sign``, minus its signs.

    Raises:
        SettingError: If ``perturbation`` is unknown.

    Example:
        >>> import torch
        >>> MinMax(perturbation="unit")(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.zeros(1, 2))
        tensor([[1., 0.]])
    """

    spreads_nonfinite = True

    def __init__(self, perturbation: Perturbation = "std") -> None:
        known = get_args(Perturbation)
        require(
            perturbation in known,
            f"MinMax.perturbation must be one of {', '.join(known)}, got {perturbation!r}.",
        )
        self.perturbation: Perturbation = perturbation

    def line(self, honest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The honest mean and the perturbation."""
        mean = wide_mean(honest)
        return mean, perturbation(self.perturbation, honest, mean)

    def factor(
        self, honest: Tensor, own: Tensor, origin: Tensor, direction: Tensor, context: AttackContext
    ) -> float:
        """The largest that keeps the distance to every honest row."""
        products = inner_products(honest, origin, direction)
        square, along, products = products[-1, -1], products[-1, :-1], products[:-1, :-1]
        if square == 0:
            return 0.0
        squares = products.diagonal()
        apart = (squares[:, None] + squares - 2 * products).max()
        return float(last_root(square, along, apart - squares).min())
