"""Bulyan."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import squared_distances
from lightning_agg.aggregators.nearest import mean_of_nearest, median, shares_of_nearest
from lightning_agg.errors import require, require_count


class Bulyan(Aggregator):
    r"""Rows picked by repeated :class:`Krum`, then the mean of the values nearest to the median.

    Krum picks a row from those that are left, :math:`\theta = M - 2 f` times. Of the picked rows, the
    aggregate is in each coordinate the mean of the :math:`\beta = \theta - 2 f` values nearest to their
    median (the smaller of two equally far, the middle of two central ones).

    Cost: :math:`O(M^2 d)` for the distances, :math:`O(M^3)` for the picks.

    Breakdown: :math:`f`.

    Reference:
        El Mhamdi et al., `The Hidden Vulnerability of Distributed Learning in Byzantium
        <https://arxiv.org/abs/1802.07927>`_, ICML 2018, Section 4. Among :math:`n` rows left, Krum looks at
        :math:`n - f - 2` neighbours; where that is none (the last pick for :math:`f = 1`), we look at one.
        ByzantineMomentum picks :math:`M - 2 f - 2` rows, FLPoison keeps :math:`M - 2 f` values.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy
            :math:`4 f + 3 \le M`.

    Raises:
        ValueError: If ``num_byzantine`` is negative, or too large for the pool when called.

    Example:
        >>> gradients = torch.tensor([[1.0], [1.0], [2.0], [2.0], [2.0], [3.0], [1e9]])
        >>> Bulyan(num_byzantine=1)(gradients)
        tensor([2.])
    """

    def __init__(self, num_byzantine: int) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        self.num_byzantine = num_byzantine

    def check(self, pool_size: int) -> None:
        """Require 4 f + 3 <= M."""
        f = self.num_byzantine
        require(
            4 * f + 3 <= pool_size,
            f"Bulyan: num_byzantine must satisfy 4 f + 3 <= M (f = {f}, M = {pool_size}).",
        )

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The mean of the values left in each coordinate."""
        picked, count = self._picked(gradients, context)
        return mean_of_nearest(gradients[picked], count, median())

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Fraction of the values left that are the row's."""
        picked, count = self._picked(gradients, context)
        shares = torch.zeros(len(gradients), device=gradients.device)
        shares[picked] = shares_of_nearest(gradients[picked], count, median())
        return shares

    def _picked(self, gradients: Tensor, context: Context) -> tuple[Tensor, int]:
        size, f = len(gradients), context.remaining(self.num_byzantine)
        if f == 0:
            return torch.arange(size, device=gradients.device), size
        distances = squared_distances(gradients).cpu()  # so that the picks never wait for an accelerator
        return repeated_krum(distances, size - 2 * f, f).to(gradients.device), size - 4 * f


def repeated_krum(distances: Tensor, num_picks: int, num_byzantine: int) -> Tensor:
    """Squared distances ``(M, M)`` -> indices of the rows that Krum picks one after another, in that order.

    The score of a row is the sum over its neighbours. As a row leaves, every other loses one neighbour: that
    row, or else its farthest. So the neighbours are ranked once, and a pick costs one sum over ``(M, M)``.
    """
    size = len(distances)
    # So that a score is finite, and larger than that of a row that is picked already only if it is not.
    largest = torch.finfo(distances.dtype).max / size
    distances = distances.clamp(max=largest).fill_diagonal_(torch.inf)
    terms, order = distances.sort(dim=1, stable=True)
    rank, rows = order.argsort(dim=1), torch.arange(size, device=distances.device)
    num_neighbors = size - num_byzantine - 2
    terms[:, num_neighbors:] = 0
    last = torch.full_like(rows, num_neighbors - 1)  # rank of the farthest neighbour
    gone = torch.zeros_like(rank, dtype=torch.bool)
    left = torch.ones_like(rows, dtype=torch.bool)
    picks = []
    for count in range(num_neighbors, num_neighbors - num_picks, -1):
        scores = terms.sum(dim=1) if count > 0 else distances[:, left].amin(dim=1)
        pick = scores.masked_fill(~left, torch.inf).argmin()
        picks.append(pick)
        left[pick] = False
        at = rank[:, pick]
        gone[rows, at] = True
        inside = at <= last
        terms[rows, torch.where(inside, at, last)] = 0
        last = last - (~inside).long()
        while bool((stale := gone[rows, last] & (last >= 0)).any()):
            last = last - stale.long()
    return torch.stack(picks)
