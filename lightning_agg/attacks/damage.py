"""How far attackers on a line drag the aggregate from the honest mean, tried on as small a matrix as will do.

A rule that commutes with rotations sees nothing but the inner products of the rows, and all trials lie in the
span of the honest rows, the origin and the direction: H + 3 coordinates hold everything. A rule that works
column by column has a squared damage that is a sum over columns, which a sample of them estimates; all trials
share it, so it hardly touches their order. A rule that first mixes rows, with weights that commute with rotations, and
then works column by column is given both side by side, the sampled columns so small that the weights do not see them. Any
other rule is tried on the whole matrix, and so are the first and the last kind on rows of half precision, whose rounding they see.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Equivariance
from lightning_agg.aggregators.linalg import differences, distances_to
from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.geometry import inner_products

SAMPLED_COLUMNS = 2**14

FINE = 1e-4
"""Rounding of the rows up to which a rule sees the same in the span of the rows, where nothing is rounded."""

UNSEEN = 2.0**-40
"""Columns so much smaller than others add nothing to the float64 squares of distances."""


class Problem(NamedTuple):
    """Honest rows, their mean, the attackers' line.

    Attributes:
        honest: ``(H, d)``.
        mean: ``(d,)``.
        origin: ``(d,)``.
        direction: ``(d,)``.
        roots: The root of how often each column counts, 1 or ``(d,)``.
        typical: The factor at which the step is as long as the honest deviations are (or, without any, the mean); 0 or
            not finite where nothing can be tried.
    """

    honest: Tensor
    mean: Tensor
    origin: Tensor
    direction: Tensor
    roots: Tensor
    typical: float = 0.0

    @property
    def possible(self) -> bool:
        """Whether anything can be tried."""
        return _possible(self.typical)

    def damage(
        self, context: AttackContext, aggregate: Callable[[Tensor], Tensor]
    ) -> Callable[[float], float]:
        """The function of the factor; minus infinity where it is not finite."""
        sent = self.origin.expand(len(context.byzantine), -1).to(self.honest.dtype)
        pool, rows = context.pool(self.honest, sent)

        largest = torch.finfo(self.direction.dtype).max

        def damage(factor: float) -> float:
            point = torch.add(self.origin, self.direction, alpha=min(factor, largest))
            for row in rows:
                pool[row] = point
            away = (aggregate(pool) - self.mean).mul_(self.roots)
            value = float(torch.linalg.vector_norm(away, dtype=torch.float64))
            return value if value < float("inf") else -float("inf")

        return damage


def problem(
    honest: Tensor, mean: Tensor, origin: Tensor, direction: Tensor, equivariance: Equivariance | None
) -> Problem:
    """The smallest matrix on which a rule of this kind tells the damage."""
    full = Problem(honest, mean, origin, direction, mean.new_ones(1))
    small, fine = None, torch.finfo(honest.dtype).eps <= FINE
    if equivariance == "rotations" and len(mean) > len(honest) + 3 and fine:
        small = _rotated(full)
    elif equivariance in ("columns", "signs") and len(mean) > SAMPLED_COLUMNS:
        small = _sampled(full)
    elif equivariance == "mixed" and len(mean) > SAMPLED_COLUMNS and fine:
        small = _mixed(full)
    if small is not None:
        return small
    deviation = distances_to(honest, mean).square().mean().sqrt()
    return full._replace(typical=_typical(deviation, _length(mean), _length(direction)))


def _possible(factor: float) -> bool:
    return 0 < factor < float("inf")


def _typical(deviation: Tensor, mean: Tensor, direction: Tensor) -> float:
    """The factor of three lengths."""
    return float(torch.where(deviation > 0, deviation, mean) / direction)


def _length(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return length


def _rotated(full: Problem) -> Problem | None:
    """In the span of the rows; ``None`` where float64 does not hold the squares."""
    products = inner_products(full.honest, full.mean, full.origin - full.mean, full.direction, full.mean)
    lengths = products.diagonal().sqrt()
    deviation = products.diagonal()[: len(full.honest)].mean().sqrt()
    typical = _typical(deviation, lengths[-1], lengths[-2])
    if not _possible(typical):
        return None
    divisor = torch.where(lengths > 0, lengths, 1)
    values, vectors = torch.linalg.eigh(products / divisor / divisor[:, None])
    *centred, away, direction, mean = (vectors * values.clamp(min=0).sqrt() * lengths[:, None]).unbind()
    return Problem(torch.stack(centred) + mean, mean, away + mean, direction, full.roots.double(), typical)


def _sampled(full: Problem) -> Problem | None:
    """Columns drawn systematically, in proportion to what they may contribute; ``None`` where their dtype does not hold the squares."""
    size = len(full.mean)
    share = torch.full_like(full.mean, 1 / size)
    spread = torch.cat([rows.square_().mean(dim=0) for rows in differences(full.honest, full.mean)])
    parts = spread, (full.origin - full.mean).square_(), full.direction.square()
    totals = [part.sum(dtype=torch.float64) for part in parts]
    typical = _typical(totals[0].sqrt(), _length(full.mean), totals[2].sqrt())
    if not _possible(typical):
        return None
    for part, total in zip(parts, totals, strict=True):
        share.add_(part.div_(total.clamp(min=torch.finfo(part.dtype).tiny)))
    reached = share.cumsum(dim=0, dtype=torch.float64)
    steps = torch.arange(SAMPLED_COLUMNS, dtype=torch.float64, device=share.device)
    points = (steps + 0.5) / SAMPLED_COLUMNS * reached[-1]
    columns = torch.searchsorted(reached, points).clamp_(max=size - 1)
    roots = (reached[-1] / (SAMPLED_COLUMNS * share[columns])).sqrt()
    honest, mean, origin, direction = (part.index_select(-1, columns) for part in full[:4])
    return Problem(honest, mean, origin, direction, roots.to(mean.dtype), typical)


def _mixed(full: Problem) -> Problem | None:
    """In the span of the rows, for the weights, beside sampled columns, for the damage; ``None`` as of these."""
    rotated, sampled = _rotated(full), _sampled(full)
    if rotated is None or sampled is None:
        return None
    honest, mean, origin, direction = (
        torch.cat([seen, UNSEEN * damaged], dim=-1)
        for seen, damaged in zip(rotated[:4], sampled[:4], strict=True)
    )
    roots = torch.cat([torch.zeros_like(rotated.mean), sampled.roots.double() / UNSEEN])
    return Problem(honest, mean, origin, direction, roots, rotated.typical)
