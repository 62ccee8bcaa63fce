"""Zeno."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.errors import (
    require,
    require_choice,
    require_count,
    require_non_negative,
    require_positive,
)

Penalty = Literal["norm", "mean_square"]


class Zeno(WeightedAggregator):
    r"""Mean of the :math:`M - b` rows whose trial step lowers the server's loss most.

    It works with a Byzantine majority. The score of a row is
    :math:`f_r(\theta) - f_r(\theta - \gamma g) - \rho \lVert g \rVert^2`, where
    :math:`f_r` is the mean loss on :math:`n_r` fresh public samples. A row whose trial loss is not finite
    ranks last, and the lowest worker index wins among equals.

    Cost: :math:`O(M d)`, and :math:`M + 1` losses on :math:`n_r` samples.

    Breakdown: :math:`b`, up to all rows but one, by the penalty; without it (:math:`\rho = 0`) unknown, as a loss need not see the
    distance: a common shift of all output biases, as long as you like, changes nothing in a cross entropy.

    Reference:
        Xie et al., `Zeno: Distributed Stochastic Gradient Descent with Suspicion-based Fault-tolerance
        <https://arxiv.org/abs/1805.10032>`_, ICML 2019, Definitions 2 and 3.

    Args:
        num_byzantine: Number :math:`b` of rows left out, at least 0; the pool must satisfy :math:`b < M`.
        rho: Weight :math:`\rho` of the penalty, at least 0.
        step_size: Length :math:`\gamma` of the trial step, positive; the paper takes the learning rate.
        num_samples: Number :math:`n_r` of public samples that the losses are averaged over, at least 1.
        penalty: ``norm``, :math:`\lVert g \rVert^2` as in the paper, or ``mean_square``,
            :math:`\lVert g \rVert^2 / d` as in the authors' code.

    Raises:
        ValueError: If an argument is not as above, if :math:`b \ge M` when called, or if the server has no
            public data.

    Example:
        >>> losses = lambda parameters, num_samples: parameters.square().sum(dim=1)
        >>> context = Context(parameters=lambda: torch.tensor([1.0]), public_losses=losses)
        >>> Zeno(num_byzantine=2)(torch.tensor([[1.0], [2.0], [-1.0], [-9.0]]), context)
        tensor([1.5000])
    """

    def __init__(
        self,
        num_byzantine: int,
        rho: float = 0.0005,
        step_size: float = 0.1,
        num_samples: int = 12,
        penalty: Penalty = "norm",
    ) -> None:
        super().__init__()
        require_count("num_byzantine", num_byzantine)
        require_non_negative("rho", rho)
        require_positive("step_size", step_size)
        require_count("num_samples", num_samples, minimum=1)
        require_choice("penalty", penalty, get_args(Penalty))
        self.num_byzantine = num_byzantine
        self.rho = rho
        self.step_size = step_size
        self.public_samples = num_samples
        self.penalty = penalty

    def breakdown_point(self, pool_size: int) -> int | None:
        """Those that it is told of, where long rows are penalised."""
        return super().breakdown_point(pool_size) if self.rho > 0 else None

    def check(self, pool_size: int) -> None:
        """Require f < M."""
        f = self.num_byzantine
        require(f < pool_size, f"Zeno: num_byzantine must satisfy f < M (f = {f}, M = {pool_size}).")

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """Equal for the rows of the best scores, 0 for the others."""
        count = len(gradients) - context.remaining(self.num_byzantine)
        best = self.scores(gradients, context).argsort(descending=True, stable=True)[:count]
        weights = torch.zeros(len(gradients), dtype=torch.float64, device=gradients.device)
        weights[best] = 1 / count
        return weights

    def scores(self, gradients: Tensor, context: Context) -> Tensor:
        """``(M, d)`` -> ``(M,)``: score of each row, minus infinity where the trial loss is not finite."""
        squares = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).square()
        if self.penalty == "mean_square":
            squares = squares / gradients.shape[1]
        descents = context.descents(gradients, self.step_size, self.public_samples)
        scores = descents - self.rho * squares
        return torch.where(scores.isfinite(), scores, -torch.inf)
