"""Krum."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import squared_distances
from lightning_agg.aggregators.ranks import sort_rows
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.errors import require, require_choice, require_count

Neighbors = Literal["paper", "byzfl"]
Power = Literal[1, 2]


class Krum(SelectingAggregator):
    r"""The row that is closest to its :math:`M - f - 2` nearest other rows.

    The score of a row is the sum of its squared distances to these neighbours; the lowest score wins, and among
    scores that rounding leaves equal the lowest worker index. If more rows than ``num_byzantine`` were not finite,
    the rule runs on what is left, and takes the first row of one or two.

    Cost: :math:`O(M^2 d)`, and memory for :math:`M^2` distances.

    Breakdown: :math:`f` (Proposition 4.2).

    Reference:
        Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent
        <https://papers.nips.cc/paper/6617>`_, NeurIPS 2017, Section 4.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy
            :math:`2 f + 2 < M`.
        neighbors: Number of neighbours, a row not counted as its own: ``paper``, :math:`M - f - 2`, or
            ``byzfl``, :math:`M - f - 1` (ByzFL, Garfield).
        power: Exponent of the distances in the score: 2, squared as in the paper, or 1 (Garfield, TorchJD).

    Raises:
        ValueError: If an argument is not as above, or ``num_byzantine`` is too large for the pool when
            called.

    Example:
        >>> Krum(num_byzantine=1)(torch.tensor([[1.0], [1.5], [1.75], [2.5], [9.0]]))
        tensor([1.5000])
    """

    equivariance = "rotations"

    def __init__(self, num_byzantine: int, neighbors: Neighbors = "paper", power: Power = 2) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_choice("neighbors", neighbors, get_args(Neighbors))
        require_choice("power", power, get_args(Power))
        self.num_byzantine = num_byzantine
        self.neighbors = neighbors
        self.power = power

    def check(self, pool_size: int) -> None:
        """Require 2 f + 2 < M."""
        f = self.num_byzantine
        require(
            2 * f + 2 < pool_size,
            f"{type(self).__name__}: num_byzantine must satisfy 2 f + 2 < M (f = {f}, M = {pool_size}).",
        )

    def selected(self, gradients: Tensor, context: Context) -> Tensor:
        """Indices of the selected rows, best first."""
        num_byzantine = context.remaining(self.num_byzantine)
        order = self.scores(gradients, num_byzantine).argsort(stable=True)
        return order[: self._num_selected(len(gradients), num_byzantine)]

    def scores(self, gradients: Tensor, num_byzantine: int) -> Tensor:
        """``(M, d)`` -> ``(M,)`` float64: the lower, the closer a row is to its neighbours."""
        count = len(gradients) - num_byzantine - (2 if self.neighbors == "paper" else 1)
        distances = squared_distances(gradients)
        if self.power == 1:
            distances = distances.sqrt()
        nearest = sort_rows(distances.fill_diagonal_(torch.inf))
        return nearest[:, : max(count, 0)].sum(dim=1)

    def _num_selected(self, size: int, num_byzantine: int) -> int:
        return 1
