"""Noise as large as the convergence theorems ask for."""

from typing import Literal, get_args

from torch import Tensor

from lightning_agg.errors import require, require_positive
from lightning_agg.noise_scales.base import NoiseContext, NoiseScale

Rule = Literal["sign_majority", "coordinate_median"]

EXPONENTS: dict[str, float] = {"sign_majority": 1 / 4, "coordinate_median": 1 / 6}


class TheoryScale(NoiseScale):
    r"""The power of rounds times coordinates, :math:`(T d)^{1/4}` or :math:`(T d)^{1/6}`, that the theorems ask for.

    The theorems fix the order in T and d, for gradients of order 1: the best b of a problem is in proportion to the
    spread of its workers' gradients, and ``factor`` is there to say so. The learning rate is a setting of its own;
    the theorems take :math:`(T d)^{-1/2}` with the vote and :math:`(T d)^{-2/3}` with the median.

    Reference:
        Chen et al., `Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms
        <https://arxiv.org/abs/1906.01736>`_, NeurIPS 2020: Theorem 5 (noisy signSGD, rate d^(3/4) T^(-1/4)) and
        Theorem 6 (noisy medianSGD, rate d^(2/3) T^(-1/3)). ``factor`` is ours.

    Args:
        rule: Whose theorem: ``sign_majority``, b = (T d)^(1/4), or ``coordinate_median``, b = (T d)^(1/6).
        factor: Multiplies it, above 0.
        num_rounds: Number T of rounds; ``trainer.max_steps`` when null.

    Raises:
        SettingError: If the rule is neither, a number is not positive, or T is not known.

    Example:
        >>> TheoryScale("sign_majority")(torch.zeros(3, 10), NoiseContext(0, 1000, (10,)))
        10.0
    """

    def __init__(self, rule: Rule, factor: float = 1.0, num_rounds: int | None = None) -> None:
        require(
            rule in get_args(Rule),
            f"noise.scale.rule must be one of {', '.join(get_args(Rule))}, got {rule!r}.",
        )
        require_positive("noise.scale.factor", factor)
        require(
            num_rounds is None or num_rounds >= 1,
            f"noise.scale.num_rounds must be at least 1, got {num_rounds}.",
        )
        self.rule = rule
        self.factor = factor
        self.num_rounds = num_rounds

    def check(self, num_rounds: int | None) -> None:
        """Require a known T."""
        require(
            (self.num_rounds or num_rounds) is not None,
            "noise.scale.num_rounds must be set for TheoryScale where trainer.max_steps does not tell the number T of"
            " rounds, got null.",
        )

    def __call__(self, gradients: Tensor, context: NoiseContext) -> float:
        """The same b in every round."""
        self.check(context.num_rounds)
        horizon = self.num_rounds or context.num_rounds or 0
        return float(self.factor * (horizon * gradients.shape[1]) ** EXPONENTS[self.rule])
