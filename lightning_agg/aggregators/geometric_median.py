"""The geometric median."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import FEW, combine, distances_to, products_about, squared_distances
from lightning_agg.aggregators.ranks import mean_of_ranks
from lightning_agg.aggregators.spectrum import centred_gram
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.errors import require_count, require_non_negative, require_positive
from lightning_agg.precision import widened

Matrix = NDArray[np.float64]

FAR = 1e4
"""A row this many times as far from the center as rows are from the result costs half of the sixteen digits."""

MANY = 400
"""For more rows than that, the inner products cost more than the iterations over the rows that mostly do."""

PASS = 40
"""The inner products of so many rows cost as much as one iteration over them."""


class GeometricMedian(WeightedAggregator):
    r"""The point with the smallest sum of distances to the rows, by the smoothed Weiszfeld algorithm.

    Each iteration is the mean of the rows weighted by :math:`1 / \max(\nu, \lVert x_i - z \rVert)`. It is
    run on inner products of the rows relative to a center, where it starts: an iteration costs :math:`M^2` whatever
    the size of the model, so it can go on to convergence. The center is the mean of the rows; if from there it does
    not converge, or a row is so far away that digits are lost, it is their coordinate-wise median. So Byzantine
    rows of any length neither spoil the start nor the arithmetic. It needs no number of attackers, and tolerates
    a minority.

    Of more than 400 rows, :math:`M / 40` iterations are made on the rows themselves before that, and mostly suffice:
    together they cost what the inner products do. Where a row stands out as the nearest, it is tried as the median.
    Where no more iterations are allowed, they start at the coordinate-wise median, as nothing comes after them.

    Cost: :math:`O(M^2 d)` for the inner products, then :math:`O(M^2)` an iteration; of more than 400 rows
    :math:`O(M d)` an iteration, and the inner products where :math:`M / 40` do not suffice.

    Breakdown: :math:`\lfloor (M - 1) / 2 \rfloor` (Lopuhaä and Rousseeuw, Annals of Statistics 1991).

    Reference:
        Pillutla et al., `Robust Aggregation for Federated Learning <https://arxiv.org/abs/1912.13445>`_, IEEE
        Transactions on Signal Processing 2022, Algorithm 2, with all workers weighted equally. We stop where the
        objective is stationary, not after a few iterations.
        Vardi and Zhang, `The multivariate L1-median and associated data depth
        <https://doi.org/10.1073/pnas.97.4.1423>`_, PNAS 2000, for when the median is one of the rows.

    Args:
        iterations: Largest number of iterations, at least 1.
        tolerance: Stop when the gradient of the objective, a sum of :math:`M` vectors of length 1, is at most
            ``tolerance`` times :math:`M` long.
        smoothing: Distance :math:`\nu` below which a row gets no more weight, positive: an absolute one, as in the paper, so it must be small beside
            the distances of honest rows.

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
        found = self._by_passes(gradients) if len(gradients) > MANY else None
        if found is not None:
            return found
        for products in (_about_mean, _about_median):
            gram = products(gradients)
            usable = np.isfinite(gram.diagonal())
            weights = np.zeros(len(gram))
            weights[usable], distances, converged = self._weiszfeld(gram[usable][:, usable])
            if converged and usable.all() and math.sqrt(gram.diagonal().max()) <= FAR * _middle(distances):
                break
        return torch.from_numpy(weights)

    def _by_passes(self, gradients: Tensor) -> Tensor | None:
        """Weights by iterations over the rows; ``None`` where more of them are needed than inner products cost."""
        rows = widened(gradients)
        size, anchor = len(rows), None
        passes = size // PASS
        last = self.iterations <= passes
        point = _median(rows) if last else combine(rows.new_full((size,), 1 / size), rows)
        weights = point.new_zeros(0)
        for _ in range(min(passes, self.iterations)):
            distances = distances_to(rows, point)
            if anchor is None and distances.min() < distances.median() / 2:
                anchor = rows[int(distances.argmin())]
                weights, stationary = self._at(rows, anchor)
                if stationary:
                    return weights
            pull = 1 / distances.clamp(min=self.smoothing)
            weights = pull / pull.sum()
            moved = combine(weights, rows)
            if torch.linalg.vector_norm(moved - point) * pull.sum() <= self.tolerance * size:
                return weights
            point = moved
        return weights if last else None

    def _at(self, rows: Tensor, anchor: Tensor) -> tuple[Tensor, bool]:
        """Weights around a row, and whether those next to it hold against the pull of the others."""
        distances = distances_to(rows, anchor)
        far = torch.where(distances > self.smoothing, 1 / distances, 0)
        pull = torch.where(far > 0, far, 1 / self.smoothing)
        resultant = torch.linalg.vector_norm(combine(far, rows) - far.sum() * anchor)
        return pull / pull.sum(), bool(resultant <= (far == 0).sum())

    def _weiszfeld(self, gram: Matrix) -> tuple[Matrix, Matrix, bool]:
        """Weights and distances of the rows at the end, and whether that was before the last iteration."""
        # NumPy, because its calls on M numbers take a third of the time of torch's.
        # z = sum_i c_i u_i, u_i the unit vector along row i: so rows of 1e30 and of 1 mix without cancellation.
        lengths = np.sqrt(np.maximum(gram.diagonal(), 0))
        divisor = np.where(lengths > 0, lengths, np.inf)  # a row at the center has no direction
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


def _middle(values: Matrix) -> float:
    middle: float = np.sort(values)[len(values) // 2]  # np.median takes six times as long
    return middle


def _about_mean(gradients: Tensor) -> Matrix:
    """Inner products relative to the mean."""
    weights = torch.full((len(gradients),), 1 / len(gradients), dtype=torch.float64, device="cpu")
    if len(gradients) <= FEW:
        return centred_gram(squared_distances(gradients, exact=True).cpu().numpy(), weights.numpy())
    return products_about(gradients, combine(weights, gradients)).cpu().numpy()


def _about_median(gradients: Tensor) -> Matrix:
    """Inner products relative to the coordinate-wise median."""
    return products_about(gradients, _median(gradients)).cpu().numpy()


def _median(rows: Tensor) -> Tensor:
    """The coordinate-wise median."""
    return mean_of_ranks(rows, (len(rows) - 1) // 2, len(rows) // 2 + 1)
