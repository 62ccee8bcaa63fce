"""Base class of the pre-aggregators that shorten rows."""

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_agg.aggregators.context import NOTHING, Context
from lightning_agg.aggregators.linalg import row_lengths
from lightning_agg.aggregators.matrix import require_matrix, sum_is_finite
from lightning_agg.preaggregators.base import PreAggregator
from lightning_agg.precision import wide_dtype

BEYOND = 2.0**600
"""Rows whose squares overflow are measured in this unit, in which they do not."""


class Clipping(PreAggregator):
    """Brings the rows that are longer than some length to it; subclasses write only :meth:`longest`."""

    equivariance = "rotations"

    @abstractmethod
    def longest(self, lengths: Tensor, context: Context) -> Tensor | float:
        """Lengths ``(M,)`` of the rows -> the largest that is left."""

    def __call__(self, gradients: Tensor, context: Context | None = None) -> Tensor:
        """As of the base class; lengths that are finite tell that the rows are."""
        require_matrix(gradients)
        self.check(len(gradients))
        lengths = row_lengths(gradients.detach())
        if sum_is_finite(lengths):
            return self._scaled(gradients.detach(), lengths, context or NOTHING)
        return super().__call__(gradients, context)

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The rows, shortened."""
        return self._scaled(gradients, _lengths(gradients), context)

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """The factor of each row, on the diagonal."""
        return self._factors(_lengths(gradients), context).diag()

    def _scaled(self, gradients: Tensor, lengths: Tensor, context: Context) -> Tensor:
        """The shortened rows in their dtype, multiplied in at least float32."""
        wide = wide_dtype(gradients)
        return (gradients * self._factors(lengths, context).to(wide)[:, None]).to(gradients.dtype)

    def _factors(self, lengths: Tensor, context: Context) -> Tensor:
        longest = self.longest(lengths, context)
        return torch.where(lengths > longest, longest / lengths, 1.0)


def _lengths(rows: Tensor) -> Tensor:
    """Finite rows ``(M, d)`` -> float64 ``(M,)``: infinite only where it does not hold the length, not its square."""
    lengths = row_lengths(rows)
    if sum_is_finite(lengths):
        return lengths
    return torch.where(lengths.isfinite(), lengths, row_lengths(rows / BEYOND) * BEYOND)
