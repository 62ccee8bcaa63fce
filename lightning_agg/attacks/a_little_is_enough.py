"""The honest mean, shifted by as many standard deviations as a majority will hide."""

import math
from statistics import NormalDist
from typing import Literal

from torch import Tensor

from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import deviation, wide_mean
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.errors import require


class ALittleIsEnough(LineAttack):
    r"""All attackers send :math:`\mu - z \sigma`, coordinate by coordinate (ALIE).

    :math:`\mu` and :math:`\sigma` are mean and standard deviation over workers. Without ``z`` the attack
    takes the paper's largest shift that enough honest workers exceed to make a majority: with :math:`s =
    \lfloor M/2 + 1 \rfloor - f`, :math:`z = \Phi^{-1}((M - f - s) / (M - f))`. It is defined for :math:`M \ge
    3` and :math:`2f \le M`, and is negative for few attackers (-0.14 for 1 of 10).

    Cost: :math:`O(H d)`.

    Reference:
        Baruch et al., `A Little Is Enough: Circumventing Defenses For Distributed Learning
        <https://arxiv.org/abs/1902.06156>`_, NeurIPS 2019, Algorithm 3.
        The paper's attackers see only each other (``statistics: own``); ours see the honest rows. Sign and
        divisor are those of the authors' code; Blades, FLPoison and ByzFL add :math:`z \sigma`, and ByzFL's
        default is ``z: 1.5, direction: above, ddof: 1``.

    Args:
        z: Number of standard deviations; from :math:`M` and :math:`f` when ``None``.
        direction: Side of the mean: ``below`` is :math:`\mu - z \sigma`, ``above`` is :math:`\mu + z \sigma`.
        statistics: Rows that give mean and deviation: the honest ones, or the attackers' own answers.
        ddof: Variance over :math:`n` rows is divided by :math:`n` - ``ddof``. Over a single row it is 0.

    Raises:
        SettingError: If an argument is unknown or not finite; before training and in the call, if ``z`` is
            ``None`` and undefined.

    Example:
        >>> import torch
        >>> ALittleIsEnough(z=2.0)(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(1, 2))
        tensor([[0., 5.]])
        >>> round(ALittleIsEnough.largest_z(pool_size=10, num_byzantine=4), 3)
        0.431
    """

    spreads_nonfinite = True

    def __init__(
        self,
        z: float | None = None,
        direction: Literal["below", "above"] = "below",
        statistics: Literal["honest", "own"] = "honest",
        ddof: Literal[0, 1] = 0,
    ) -> None:
        require(z is None or math.isfinite(z), f"ALittleIsEnough.z must be a finite number, got {z!r}.")
        for name, value, known in (
            ("direction", direction, ("below", "above")),
            ("statistics", statistics, ("honest", "own")),
            ("ddof", ddof, (0, 1)),
        ):
            require(
                value in known, f"ALittleIsEnough.{name} must be {known[0]} or {known[1]}, got {value!r}."
            )
        self.z = z
        self.direction = direction
        self.statistics = statistics
        self.ddof = ddof

    def line(self, honest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, and the standard deviation with the sign of ``direction``."""
        rows = honest if self.statistics == "honest" else own
        mean = wide_mean(rows)
        shift = deviation(rows, mean, self.ddof)
        return mean, shift if self.direction == "above" else -shift

    def factor(
        self, honest: Tensor, own: Tensor, origin: Tensor, direction: Tensor, context: AttackContext
    ) -> float:
        """``z``, or the paper's."""
        return self.largest_z(context.pool_size, len(own)) if self.z is None else self.z

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """Without ``z``, refuse the counts for which the paper's formula has no value."""
        if self.z is None and num_byzantine > 0:
            self.largest_z(pool_size, num_byzantine)

    def check_round(self, pool_size: int, num_byzantine: int) -> None:
        """As :meth:`check`."""
        self.check(pool_size, num_byzantine)

    @staticmethod
    def largest_z(pool_size: int, num_byzantine: int) -> float:
        """The paper's z for f attackers among M workers.

        Raises:
            SettingError: If the quantile is not strictly between 0 and 1.
        """
        require(
            pool_size >= 3 and 2 * num_byzantine <= pool_size,
            "ALittleIsEnough.z must be given where it does not follow from the counts: without it, M >= 3 and"
            f" 2 f <= M (f = {num_byzantine}, M = {pool_size}).",
        )
        num_honest = pool_size - num_byzantine
        supporters = pool_size // 2 + 1 - num_byzantine
        return NormalDist().inv_cdf((num_honest - supporters) / num_honest)
