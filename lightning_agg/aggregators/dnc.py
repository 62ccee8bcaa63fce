"""Divide and conquer."""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.aggregators.base import require_minority
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.aggregators.spectrum import spread, top_direction
from lightning_agg.errors import require, require_count, require_positive


class DnC(SelectingAggregator):
    r"""Mean of the rows that do not stick out along the top direction of spread: divide and conquer.

    Each iteration draws :math:`b` coordinates, takes the top right singular vector :math:`v` of the centred
    rows there, and leaves out the :math:`\lfloor c f \rfloor` rows of largest
    :math:`\langle v, x_i - \mu \rangle^2`. Averaged are the rows that no iteration left out, or, where there
    are none, those left out least often. The coordinates follow from the seed of the run and the round.

    Attackers that all send the same are found. One that hides behind another of much longer rows is not: only one direction is
    looked at, and even on that one the longest row draws the mean towards it, where a shorter one of the same direction stands.

    Cost: :math:`O(M^2 b)` a draw, and one pass over the rows.

    Breakdown: unknown: 1 where all coordinates are drawn, and :math:`f` if they send the same.

    Reference:
        Shejwalkar and Houmansadr, `Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
        for Federated Learning <https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/>`_,
        NDSS 2021, Algorithm 2. The defaults are those of Blades; the set is never empty.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy :math:`2 f < M`.
        num_iterations: Number of draws, at least 1; 1 is enough where all coordinates are taken.
        num_coordinates: Number :math:`b` of coordinates of a draw, at least 1; all of them where :math:`d \le b`.
        filter_fraction: Rows left out for each Byzantine one, :math:`c`, positive; must satisfy
            :math:`\lfloor c f \rfloor < M`.

    Raises:
        ValueError: If an argument is not as above, or a number is too large for the pool when called.

    Example:
        >>> DnC(num_byzantine=1)(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 1e9]]))
        tensor([2., 0.])
    """

    def __init__(
        self,
        num_byzantine: int,
        num_iterations: int = 5,
        num_coordinates: int = 10_000,
        filter_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_count("num_iterations", num_iterations, minimum=1)
        require_count("num_coordinates", num_coordinates, minimum=1)
        require_positive("filter_fraction", filter_fraction)
        self.num_byzantine = num_byzantine
        self.num_iterations = num_iterations
        self.num_coordinates = num_coordinates
        self.filter_fraction = filter_fraction

    def check(self, pool_size: int) -> None:
        """Require 2 f < M and floor(c f) < M."""
        f, c = self.num_byzantine, self.filter_fraction
        require_minority("DnC", f, pool_size)
        require(
            self._num_filtered(f) < pool_size,
            f"DnC: filter_fraction must satisfy floor(c f) < M (c = {c}, f = {f}, M = {pool_size}).",
        )

    def breakdown_point(self, pool_size: int) -> int | None:
        """0 without attackers; else none is known: it depends on what they do."""
        return None if self.num_byzantine else 0

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the rows left out least often."""
        num_filtered = self._num_filtered(context.remaining(self.num_byzantine))
        times_out = torch.zeros(len(gradients), dtype=torch.int64, device="cpu")
        for iteration in range(self.num_iterations if num_filtered else 0):
            distances = spread(self._drawn(gradients, context, iteration))
            weights = np.full(len(gradients), 1 / len(gradients))
            order = (-top_direction(distances, weights)[1]).argsort(kind="stable")
            times_out[order[:num_filtered]] += 1
            if gradients.shape[1] <= self.num_coordinates:
                break
        return (times_out == times_out.min()).nonzero()[:, 0].to(gradients.device)

    def _num_filtered(self, num_byzantine: int) -> int:
        return math.floor(round(self.filter_fraction * num_byzantine, 9))  # 0.29 * 100 is 28.999...

    def _drawn(self, gradients: Tensor, context: Context, iteration: int) -> Tensor:
        width = gradients.shape[1]
        if width <= self.num_coordinates:
            return gradients
        rng = seeding.generator(context.seed, "DnC", worker=iteration, step=context.round)
        columns = rng.choice(width, self.num_coordinates, replace=False, shuffle=False)
        return gradients[:, torch.from_numpy(columns).to(gradients.device)]
