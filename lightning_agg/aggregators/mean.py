"""The arithmetic mean."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import FEW, combine
from lightning_agg.precision import widened

GROUP = 128
"""Rows that are added up at once, so that sums of many are as exact as torch's."""

LARGE = 2**22
"""Numbers of a matrix that no cache holds, of which a product takes half the time that torch's mean does."""


class Mean(Aggregator):
    """Arithmetic mean of all rows: plain distributed SGD, without any robustness.

    Cost: :math:`O(M d)`.

    Breakdown: 0: one row moves it anywhere.

    Reference:
        The baseline of every paper of the field; Blanchard et al., `Machine Learning with Adversaries:
        Byzantine Tolerant Gradient Descent <https://papers.nips.cc/paper/6617>`_, NeurIPS 2017, Lemma 1,
        shows that one Byzantine row decides it.

    Example:
        >>> Mean()(torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
        tensor([2., 2.])
    """

    equivariance = "linear"
    spreads_nonfinite = True

    def breakdown_point(self, pool_size: int) -> int:
        """None."""
        return 0

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The mean over workers."""
        if len(gradients) <= FEW or gradients.numel() < LARGE or gradients.device.type != "cpu":
            return gradients.mean(dim=0)
        groups = map(widened, torch.split(gradients, GROUP))
        sums = torch.stack([combine(group.new_ones(len(group)), group) for group in groups])
        mean: Tensor = sums.sum(dim=0) / len(gradients)
        return mean.to(gradients.dtype)

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """1 / M for each row."""
        return torch.full((len(gradients),), 1 / len(gradients), device=gradients.device)
