"""Unbiased stochastic quantisation."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_agg.compressors.base import FLOAT_BITS, CompressionContext, Compressor
from lightning_agg.errors import require

Norm = Literal["l2", "max"]


class QSGD(Compressor):
    r"""Rounds every coordinate at random to one of ``levels`` fractions of the norm, so that its mean is kept.

    With s levels, :math:`Q(v)_i = \lVert v \rVert \operatorname{sign}(v_i)\, \xi_i`, where :math:`\xi_i` is
    one of the two multiples of 1/s around :math:`\lvert v_i \rvert / \lVert v \rVert`, the upper with the probability
    that makes it unbiased. With the 2-norm its variance is at most
    :math:`\min(d / s^2, \sqrt{d} / s) \lVert v \rVert_2^2` (Lemma 3.1).

    Reference:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, `QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding <https://arxiv.org/abs/1610.02132>`_, NeurIPS 2017, section 3.1; buckets and the maximum norm are
        those of its experiments, section 4. Deviation: the bits are those of a code of fixed length,
        log2(2 s + 1) a coordinate, not of the paper's Elias code.

    Args:
        levels: Number s of levels above 0, at least 1.
        bucket_size: Consecutive coordinates that share a norm; the whole row when null. The paper's experiments
            have 512.
        norm: ``l2`` or ``max``.

    Raises:
        SettingError: If a number is below 1 or the norm is neither.

    Example:
        >>> QSGD(levels=1, norm="max")(torch.tensor([[2.0, -2.0, 0.0]]))
        tensor([[ 2., -2.,  0.]])
    """

    def __init__(self, levels: int = 4, bucket_size: int | None = None, norm: Norm = "l2") -> None:
        require(levels >= 1, f"compressor.levels must be at least 1, got {levels}.")
        require(
            bucket_size is None or bucket_size >= 1,
            f"compressor.bucket_size must be at least 1, got {bucket_size}.",
        )
        require(norm in get_args(Norm), f"compressor.norm must be l2 or max, got {norm!r}.")
        self.levels = levels
        self.bucket_size = bucket_size
        self.norm = norm

    def forward(self, gradients: Tensor, context: CompressionContext) -> Tensor:
        """The rounded rows."""
        columns = gradients.shape[1]
        size = self.bucket_size or columns
        buckets = F.pad(gradients, (0, -columns % size)).reshape(len(gradients), -1, size)
        order = 2.0 if self.norm == "l2" else math.inf
        # Squares over- and underflow long before the rows do.
        norms = torch.linalg.vector_norm(buckets, order, dim=2, keepdim=True, dtype=torch.float64)
        norms = norms.to(buckets.dtype).expand_as(buckets).flatten(1)[:, :columns]
        position = gradients.abs() / norms * self.levels
        below = position.floor()
        rounded = below + (context.uniform(gradients) < position - below)
        # A bucket of zeros has norm 0 and stays one; a NaN is passed on.
        return torch.where(norms == 0, 0, norms * gradients.sign() * (rounded / self.levels))

    def bits(self, sizes: Sequence[int]) -> float:
        """log2(2 s + 1) for each coordinate, and a float for each bucket."""
        columns = sum(sizes)
        buckets = math.ceil(columns / (self.bucket_size or columns))
        return columns * math.log2(2 * self.levels + 1) + FLOAT_BITS * buckets
