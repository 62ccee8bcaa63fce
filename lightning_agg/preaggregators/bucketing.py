"""Bucketing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_agg import seeding
from lightning_agg.aggregators.context import Context
from lightning_agg.errors import require_count
from lightning_agg.preaggregators.base import PreAggregator
from lightning_agg.precision import widened


class Bucketing(PreAggregator):
    r"""Means of :math:`s` rows each, dealt at random: fewer rows, and closer to each other.

    The permutation follows from the seed of the run and the round. If :math:`s` does not divide M the last
    bucket is smaller. Each Byzantine row spoils one bucket, so the aggregator behind must stand :math:`f` among
    :math:`\lceil M / s \rceil` rows.

    Cost: :math:`O(M d)`.

    Breakdown: that of what is behind, of :math:`\lceil M / s \rceil` rows.

    Reference:
        Karimireddy, He and Jaggi, `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
        <https://arxiv.org/abs/2006.09365>`_, ICLR 2022, Algorithm 1.

    Args:
        bucket_size: Number :math:`s` of rows in a bucket, at least 1.

    Raises:
        ValueError: If ``bucket_size`` is less than 1.

    Example:
        >>> Bucketing(bucket_size=2)(torch.tensor([[1.0], [1.0], [4.0], [4.0], [4.0]])).shape
        torch.Size([3, 1])
    """

    spreads_nonfinite = True
    keeps_workers = False

    def __init__(self, bucket_size: int) -> None:
        super().__init__()
        require_count("bucket_size", bucket_size, minimum=1)
        self.bucket_size = bucket_size

    def num_rows(self, pool_size: int) -> int:
        """The number of buckets."""
        return -(-pool_size // self.bucket_size)

    def breakdown_point(self, pool_size: int, behind: int) -> int:
        """Each spoils one bucket."""
        return behind

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The means, in at least float32, without the many products by 0 of :meth:`weights`."""
        order, shares = self._dealt(gradients, context)
        firsts = torch.arange(0, len(order), self.bucket_size, device=gradients.device)
        wide = widened(gradients)
        return F.embedding_bag(
            torch.from_numpy(order).to(wide.device),
            wide,
            firsts,
            mode="sum",
            per_sample_weights=torch.from_numpy(shares).to(wide),
        ).to(gradients.dtype)

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """Equal for the rows of a bucket, 0 for the others."""
        order, shares = self._dealt(gradients, context)
        weights = np.zeros((self.num_rows(len(order)), len(order)))
        weights[self._buckets(len(order)), order] = shares
        return torch.from_numpy(weights).to(gradients.device)

    def _dealt(self, gradients: Tensor, context: Context) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows, bucket after bucket and ascending in each, and the share of each in its bucket."""
        size = len(gradients)
        order = seeding.generator(context.seed, "Bucketing", step=context.round).permutation(size)
        order = order[np.lexsort((order, self._buckets(size)))]
        shares = np.full(size, 1 / self.bucket_size)
        last = size % self.bucket_size
        shares[size - last :] = 1 / max(last, 1)
        return order, shares

    def _buckets(self, size: int) -> NDArray[np.int64]:
        return np.arange(size) // self.bucket_size
