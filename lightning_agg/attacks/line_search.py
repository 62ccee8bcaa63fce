"""The most harmful point on the line of another attack."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.damage import Problem, problem
from lightning_agg.attacks.geometry import wide_mean
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.attacks.wrapper import Wrapper
from lightning_agg.errors import SettingError, require

NEAR = (-3.0, 4.0)
FAR = (5.0, 7.0, 10.0, 14.0)
GOLDEN = 0.381966
PRECISION = 1e-4
SAME = 1 - 1e-6


class LineSearch(Wrapper):
    r"""Chooses the factor of another attack so that the aggregate is as far from the honest mean as can be.

    The attackers know the rule, the round and all rows, and try factors before they send: ``InnerProduct`` and
    ``ALittleIsEnough`` become their optimal versions, ``MinMax`` and ``MinSum`` are tailored to the rule. The
    rule's memory stays as it is. Rules that commute with rotations, work column by column, or do the one and then the
    other, are tried on a small matrix (see :mod:`lightning_agg.attacks.damage`); each trial of another, and of most on rows of half precision, costs an
    aggregation.

    With the first 8 evaluations (60 of 80), factors from :math:`4^{-3} c` to :math:`4^4 c` are tried, where at :math:`c`
    the step from the origin is as long as the honest deviations; then larger ones, to :math:`4^{14} c`, as long
    as they do no less harm. The rest contracts the bracket around the best by golden sections, to a precision
    of 1e-4: a factor closer to where a rule ceases to be fooled would not survive rounding. Factors are positive.
    Against ``Mean``, where more is always worse, nothing is tried: the factor is :math:`4^{14} c`.

    Cost: ``evaluations`` aggregations: of a small matrix, made in :math:`O(H^2 d)`, where the rule allows it, else
    of all rows.

    Reference:
        Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
        <https://arxiv.org/abs/2302.01772>`_, AISTATS 2023, experiments; as ``Optimal_*`` in ByzFL.
        ByzFL begins at 0 with a step of 10, doubles it while it helps, then only goes forward by steps 0.8
        times as long; we go both ways, at the scale of the gradients.

    Args:
        attack: The attack whose factor is chosen; its own factor is not used.
        aggregator: The rule that the attackers expect, always as in its first round; the server's when ``None``.
        evaluations: Number of factors tried in a round, at least 8; when ``None`` 20, or 80 on a small matrix.

    Raises:
        SettingError: If ``attack`` has no factor or ``evaluations`` is below 8; in the call, if no rule is known.

    Example:
        >>> import torch
        >>> from lightning_agg.aggregators import Krum
        >>> from lightning_agg.attacks import ALittleIsEnough
        >>> honest, own = torch.tensor([[1.0], [1.5], [2.0], [2.5], [3.0]]), torch.zeros(2, 1)
        >>> LineSearch(ALittleIsEnough(), Krum(num_byzantine=2))(honest, own)
        tensor([[0.4826],
                [0.4826]])
    """

    attack: LineAttack

    def __init__(
        self, attack: LineAttack, aggregator: Aggregator | None = None, evaluations: int | None = None
    ) -> None:
        require(
            isinstance(attack, LineAttack),
            f"LineSearch.attack must be an attack with a factor, got {type(attack).__name__}.",
        )
        require(
            evaluations is None or evaluations >= 8,
            f"LineSearch.evaluations must be at least 8, got {evaluations}.",
        )
        require(
            aggregator is None or isinstance(aggregator, Aggregator),
            f"LineSearch.aggregator must be an aggregator, got {type(aggregator).__name__}.",
        )
        super().__init__(attack)
        self.aggregator = aggregator
        self.needs_rule = aggregator is None
        self.evaluations = evaluations

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The worst point of the line, the same for all."""
        aggregate, equivariance = context.aggregate, context.equivariance
        if self.aggregator is not None:
            aggregate, equivariance = self.aggregator.trial, self.aggregator.equivariance
        if aggregate is None:
            raise SettingError(
                "LineSearch must know the rule: give it an aggregator, or the call a context with aggregate."
            )
        origin, direction = self.attack.line(honest, own)
        mean = wide_mean(honest)
        tried = problem(honest, mean, origin, direction, equivariance)
        if not tried.possible:
            return origin
        if equivariance == "linear":
            factor = _farthest(tried, len(context.honest) + len(context.byzantine))
        else:
            evaluations = self.evaluations or (20 if tried.honest is honest else 80)
            factor = maximise(tried.damage(context, aggregate), tried.typical, evaluations)
        # As it was tried, to the last bit, which may decide among rows of one length.
        return torch.add(origin, direction, alpha=min(factor, _largest(origin, direction, own.dtype)))

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """The expected rule must be defined for the pool; what the attack demands is for its factor."""
        if self.aggregator is not None:
            try:
                self.aggregator.check(pool_size)
            except SettingError as error:
                raise SettingError(f"LineSearch.aggregator: {error}") from error

    def check_round(self, pool_size: int, num_byzantine: int) -> None:
        """As :meth:`check`."""
        self.check(pool_size, num_byzantine)


def _largest(origin: Tensor, direction: Tensor, dtype: torch.dtype) -> float:
    """A factor about as large as a row of ``dtype`` can have that is finite, and finite in ``direction``'s dtype itself."""
    room = 0.99 * torch.finfo(dtype).max - float(origin.abs().max())
    return min(room / float(direction.abs().max()), torch.finfo(direction.dtype).max)


def _farthest(tried: Problem, size: int) -> float:
    """The largest factor to try, or the one beyond which a sum of ``size`` rows overflows."""
    length = float(torch.linalg.vector_norm(tried.direction, dtype=torch.float64))
    overflow: float = torch.finfo(tried.honest.dtype).max / (2 * size * length)
    far: float = tried.typical * 4.0 ** FAR[-1]
    return min(far, overflow)


def maximise(function: Callable[[float], float], scale: float, evaluations: int) -> float:
    """The point above 0 where ``function``, at least 0, is largest, searched for around ``scale``.

    Example:
        >>> round(maximise(lambda x: 1 / (1 + (x - 3) ** 2), scale=1.0, evaluations=30), 2)
        3.0
    """
    size = max(8, evaluations - 20)
    step = (NEAR[1] - NEAR[0]) / (size - 1)
    points: list[float] = [scale * 4.0 ** (NEAR[0] + step * i) for i in range(size)]
    values = [function(x) for x in points]
    for k in FAR[: evaluations - len(values)]:
        if values[-1] < SAME * max(values):
            break
        points.append(scale * 4.0**k)
        values.append(function(points[-1]))
    # The last of equals: a small matrix may miss what little is still to gain.
    best = max((i for i, y in enumerate(values) if y >= SAME * max(values)), default=0)
    low, x, high = [0.0, *points, points[-1]][best : best + 3]
    value = values[best]
    for _ in range(evaluations - len(values)):
        if high - low <= PRECISION * x:
            break
        trial = x + GOLDEN * ((high - x) if high - x > x - low else (low - x))
        if SAME * (found := function(trial)) > value:
            low, high = (x, high) if trial > x else (low, x)
            x, value = trial, found
        elif trial > x:
            high = trial
        else:
            low = trial
    return x
