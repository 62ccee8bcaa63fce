"""As far from the honest rows, all in all, as an honest row is."""

from typing import Literal, get_args

from torch import Tensor

from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import Perturbation, inner_products, last_root, perturbation, wide_mean
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.errors import require


class MinSum(LineAttack):
    r"""All attackers send :math:`\mu + \gamma p`, in sum no farther from the honest rows than one of them is.

    :math:`\mu` is the mean of the honest rows, :math:`p` a direction away from it, and :math:`\gamma` the
    largest number with :math:`\sum_i \lVert \mu + \gamma p - x_i \rVert^2 \le \max_i \sum_j \lVert x_i - x_j
    \rVert^2`: the attackers are as far from the mean as the farthest honest row.

    Cost: :math:`O(H^2 d)`.

    Reference:
        Shejwalkar and Houmansadr, `Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
        for Federated Learning <https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing
        -model-poisoning-attacks-and-defenses-for-federated-learning/>`_, NDSS 2021, Section IV-C.
        The authors' code takes the smallest of the sums where the paper takes the largest (``bound: min``), and
        finds :math:`\gamma` by trials; here it is the root that the inner products give.

    Args:
        perturbation: Direction :math:`p`: ``std``, minus the standard deviations over workers; ``unit``, minus
            the mean; ``sign``, minus its signs.
        bound: The honest row that must not be outdone: the one farthest from the others, or the nearest.

    Raises:
        SettingError: If an argument is unknown.

    Example:
        >>> import torch
        >>> MinSum(perturbation="unit")(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]), torch.zeros(1, 2))
        tensor([[1., 0.]])
    """

    spreads_nonfinite = True

    def __init__(self, perturbation: Perturbation = "std", bound: Literal["max", "min"] = "max") -> None:
        known = get_args(Perturbation)
        require(
            perturbation in known,
            f"MinSum.perturbation must be one of {', '.join(known)}, got {perturbation!r}.",
        )
        require(bound in ("max", "min"), f"MinSum.bound must be max or min, got {bound!r}.")
        self.perturbation: Perturbation = perturbation
        self.bound = bound

    def line(self, honest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The honest mean and the perturbation."""
        mean = wide_mean(honest)
        return mean, perturbation(self.perturbation, honest, mean)

    def factor(
        self, honest: Tensor, own: Tensor, origin: Tensor, direction: Tensor, context: AttackContext
    ) -> float:
        """The largest that keeps the sum of squared distances."""
        products = inner_products(honest, origin, direction)
        square, along, products = products[-1, -1], products[-1, :-1], products[:-1, :-1]
        if square == 0:
            return 0.0
        # Sums of squared distances of each honest row, without what they share with the attackers' own sum.
        sums = len(honest) * products.diagonal() - 2 * products.sum(dim=1)
        room = sums.max() if self.bound == "max" else sums.min()
        return float(last_root(len(honest) * square, along.sum(), room))
