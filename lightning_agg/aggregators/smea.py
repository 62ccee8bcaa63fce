"""Smallest maximum eigenvalue averaging."""

import math
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.aggregators.spectrum import Array, centred_gram, spread, top_direction
from lightning_agg.errors import require_count

CHUNK = 2**22
"""Entries of the matrices that are looked at together."""


class SMEA(SelectingAggregator):
    r"""Mean of the :math:`M - f` rows whose covariance has the smallest largest eigenvalue.

    All subsets are tried if there are at most ``max_subsets`` of them. Beyond, the subset is an approximation:
    one row after another is left out, each time that which sticks out most along the top eigenvector of the
    covariance of those left.

    Cost: :math:`O(M^2 d)` for the distances, then :math:`O(M^3)` for each of :math:`\binom{M}{f}` subsets, or :math:`f` times
    :math:`O(M^3)` beyond ``max_subsets``.

    Breakdown: :math:`f`.

    Reference:
        Allouah et al., `On the Privacy-Robustness-Utility Trilemma in Distributed Learning
        <https://arxiv.org/abs/2302.04787>`_, ICML 2023. Our eigenvalues are exact, from the distances between
        the rows, and not a step of the power method from a random vector (ByzFL).

    Args:
        num_byzantine: Number :math:`f` of rows left out, at least 0; the pool must satisfy :math:`2 f < M`.
        max_subsets: Largest number of subsets that are all tried, at least 0.

    Raises:
        ValueError: If an argument is not as above, or ``num_byzantine`` is too large for the pool when
            called.

    Example:
        >>> SMEA(num_byzantine=1)(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 1e9]]))
        tensor([2., 0.])
    """

    equivariance = "rotations"

    def __init__(self, num_byzantine: int, max_subsets: int = 10_000) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_count("max_subsets", max_subsets)
        self.num_byzantine = num_byzantine
        self.max_subsets = max_subsets

    def check(self, pool_size: int) -> None:
        """Require 2 f < M."""
        require_minority("SMEA", self.num_byzantine, pool_size)

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the rows of the subset."""
        size, f = len(gradients), context.remaining(self.num_byzantine)
        if f == 0:
            return torch.arange(size, device=gradients.device)
        exact = math.comb(size, f) <= self.max_subsets
        find = _least_spread if exact else _without_outliers
        return torch.from_numpy(find(spread(gradients), size - f)).to(gradients.device)


def _least_spread(distances: Array, size: int) -> NDArray[np.int64]:
    """Squared distances ``(M, M)`` -> indices of the best of all subsets of ``size`` rows."""
    subsets = np.array(list(combinations(range(len(distances)), size)))
    weights = np.full(size, 1 / size)
    largest = [
        np.linalg.eigvalsh(centred_gram(distances[chunk[:, :, None], chunk[:, None, :]], weights))[:, -1]
        for chunk in np.array_split(subsets, -(-len(subsets) * size**2 // CHUNK))
    ]
    best: NDArray[np.int64] = subsets[np.concatenate(largest).argmin()]
    return best


def _without_outliers(distances: Array, size: int) -> NDArray[np.int64]:
    """Squared distances ``(M, M)`` -> indices of ``size`` rows, the others left out one by one."""
    left = np.arange(len(distances))
    while len(left) > size:
        weights = np.full(len(left), 1 / len(left))
        outlier = top_direction(distances[np.ix_(left, left)], weights)[1].argmax()
        left = np.delete(left, outlier)
    return left
