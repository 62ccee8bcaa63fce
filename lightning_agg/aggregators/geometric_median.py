"""The geometric median."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_agg.aggregators.base import require_count, require_non_negative, require_positive
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import combine, products_about
from lightning_agg.aggregators.ranks import mean_of_ranks
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator

Matrix = NDArray[np.float64]

FAR = 1e4
"""A row this many times as far from the center as rows are from the result costs half of the sixteen digits."""


class GeometricMedian(WeightedAggregator):
    r"""The point with the smallest sum of distances to the rows, by the smoothed Weiszfeld algorithm.

    Each iteration is the mean of the rows weighted by :math:`1 / \max(\nu, \lVert x_i - z \rVert)`. It is
    run on inner products of the rows relative to a center, where it starts: an iteration costs :math:`M^2` whatever
    the size of the model, so it can go on to convergence. The center is the mean of the rows; if from there it does
    not converge, or a row is so far away that digits are lost, it is their coordinate-wise median. So Byzantine
    rows of any length neither spoil the start nor the arithmetic. It needs no number of attackers, and tolerates
    a minority.

    Cost: :math:`O(M^2 d)` for the inner products, then :math:`O(M^2)` an iteration.

    Breakdown: :math:`\lfloor (M - 1) / 2 \rfloor` (Lopuhaä and Rousseeuw, Annals of Statistics 1991).

    Reference:
        Pillutla et al., `Robust Aggregation for Federated Learning <https://arxiv.org/abs/1912.13445>`_, IEEE
        Transactions on Signal Processing 2022, Algorithm 2, with all workers weighted equally. We stop where the
        objective is stationary, not after a few iterations.

    Args:
        iterations: Largest number of iterations, at least 1.
        tolerance: Stop when the gradient of the objective, a sum of :math:`M` vectors of length 1, is at most
            ``tolerance`` times :math:`M` long.
        smoothing: Distance :math:`\nu` below which a row gets no more weight, positive.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> GeometricMedian()(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0], [1e9, 1e9]]))
        tensor([3.1547, 3.1547])
    """

    equivariance = "rotations"

    def __init__(self, iterations: int = 1000, tolerance: float = 1e-6, smoothing: float = 1e-6) -> None:
        super().__init__()
        require_count("iterations", iterations, minimum=1)
        require_non_negative("tolerance", tolerance)
        require_positive("smoothing", smoothing)
        self.iterations = iterations
        self.tolerance = tolerance
        self.smoothing = smoothing

    def breakdown_point(self, pool_size: int) -> int:
        """A minority."""
        return (pool_size - 1) // 2

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """Weights of the rows at the end; 0 for a float64 row so large that its square overflows."""
        for center in (_mean, _median):
            gram = products_about(gradients, center(gradients)).cpu().numpy()
            usable = np.isfinite(gram.diagonal())
            weights = np.zeros(len(gram))
            weights[usable], distances, converged = self._weiszfeld(gram[usable][:, usable])
            if converged and usable.all() and math.sqrt(gram.diagonal().max()) <= FAR * np.median(distances):
                break
        return torch.from_numpy(weights)

    def _weiszfeld(self, gram: Matrix) -> tuple[Matrix, Matrix, bool]:
        """Weights and distances of the rows at the end, and whether that was before the last iteration."""
        # NumPy, because its calls on M numbers take a third of the time of torch's.
        # z = sum_i c_i u_i, u_i the unit vector along row i: so rows of 1e30 and of 1 mix without cancellation.
        lengths = np.sqrt(gram.diagonal())
        divisor = np.maximum(lengths, np.finfo(gram.dtype).tiny)
        cosines = gram / divisor / divisor[:, None]
        c = along = weights = distances = np.zeros(len(gram))
        for _ in range(self.iterations):
            distances = np.sqrt(np.maximum(lengths * (lengths - 2 * along) + c @ along, 0))
            pull = 1 / np.maximum(distances, self.smoothing)
            total = pull.sum()
            weights = pull / total
            step = weights * lengths - c
            moved = cosines @ step
            c, along = c + step, along + moved
            if math.sqrt(max(step @ moved, 0)) * total <= self.tolerance * len(gram):
                return weights, distances, True
        return weights, distances, False


def _mean(gradients: Tensor) -> Tensor:
    return combine(torch.full((len(gradients),), 1 / len(gradients)), gradients)


def _median(gradients: Tensor) -> Tensor:
    return mean_of_ranks(gradients, (len(gradients) - 1) // 2, len(gradients) // 2 + 1)
