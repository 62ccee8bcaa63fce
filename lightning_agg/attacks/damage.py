"""How far attackers on a line drag the aggregate from the honest mean, tried on as small a matrix as will do.

A rule that commutes with rotations sees nothing but the inner products of the rows, and all trials lie in the
span of the honest rows, the origin and the direction: H + 3 coordinates hold everything. A rule that works
column by column has a squared damage that is a sum over columns, which a sample of them estimates; all trials
share it, so it hardly touches their order. Any other rule is tried on the whole matrix.
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


class Problem(NamedTuple):
    """Honest rows ``(H, d)``, their mean, the attackers' line, and the root of how often each column counts (1 or ``(d,)``)."""

    honest: Tensor
    mean: Tensor
    origin: Tensor
    direction: Tensor
    roots: Tensor

    def damage(
        self, context: AttackContext, aggregate: Callable[[Tensor], Tensor]
    ) -> Callable[[float], float]:
        """The function of the factor; minus infinity where it is not finite."""
        sent = self.origin.expand(len(context.byzantine), -1).to(self.honest.dtype)
        pool, rows = context.pool(self.honest, sent)

        def damage(factor: float) -> float:
            pool[rows] = torch.add(self.origin, self.direction, alpha=factor).to(pool.dtype)
            away = (aggregate(pool) - self.mean).mul_(self.roots)
            value = float(torch.linalg.vector_norm(away, dtype=torch.float64))
            return value if value < float("inf") else -float("inf")

        return damage


def typical_factor(honest: Tensor, mean: Tensor, direction: Tensor) -> float:
    """The factor at which a step along ``direction`` is as long as the honest deviations are (or, without any, the mean).

    0 or not finite where nothing can be tried.
    """
    length = distances_to(honest, mean).square().mean().sqrt()
    length = torch.where(length > 0, length, torch.linalg.vector_norm(mean, dtype=torch.float64))
    return float(length / torch.linalg.vector_norm(direction, dtype=torch.float64))


def problem(
    honest: Tensor, mean: Tensor, origin: Tensor, direction: Tensor, equivariance: Equivariance | None
) -> Problem:
    """The smallest matrix on which a rule of this kind tells the damage."""
    full = Problem(honest, mean, origin, direction, mean.new_ones(1))
    if equivariance == "rotations" and len(mean) > len(honest) + 3:
        return _rotated(full)
    if equivariance == "columns" and len(mean) > SAMPLED_COLUMNS:
        return _sampled(full)
    return full


def _rotated(full: Problem) -> Problem:
    products = inner_products(full.honest, full.mean, full.origin - full.mean, full.direction, full.mean)
    lengths = products.diagonal().sqrt()
    divisor = torch.where(lengths > 0, lengths, 1)
    values, vectors = torch.linalg.eigh(products / divisor / divisor[:, None])
    *centred, away, direction, mean = (vectors * values.clamp(min=0).sqrt() * lengths[:, None]).unbind()
    return Problem(torch.stack(centred) + mean, mean, away + mean, direction, full.roots.double())


def _sampled(full: Problem) -> Problem:
    """Columns drawn systematically, in proportion to what they may contribute."""
    size = len(full.mean)
    share = torch.full_like(full.mean, 1 / size)
    spread = torch.cat([rows.square_().mean(dim=0) for rows in differences(full.honest, full.mean)])
    for part in (spread, (full.origin - full.mean).square_(), full.direction.square()):
        share.add_(part.div_(part.sum().clamp(min=torch.finfo(part.dtype).tiny)))
    reached = share.cumsum(dim=0, dtype=torch.float64)
    steps = torch.arange(SAMPLED_COLUMNS, dtype=torch.float64, device=share.device)
    points = (steps + 0.5) / SAMPLED_COLUMNS * reached[-1]
    columns = torch.searchsorted(reached, points).clamp_(max=size - 1)
    roots = (reached[-1] / (SAMPLED_COLUMNS * share[columns])).sqrt()
    honest, mean, origin, direction = (part[..., columns] for part in full[:4])
    return Problem(honest, mean, origin, direction, roots.to(mean.dtype))
