"""Base class of all pre-aggregators: rows of workers in, rows for an aggregator out."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Equivariance
from lightning_agg.aggregators.context import NOTHING, Context
from lightning_agg.aggregators.linalg import combine
from lightning_agg.aggregators.matrix import drop_nonfinite, require_matrix, sum_is_finite
from lightning_agg.errors import require_method
from lightning_agg.memory import Remembers
from lightning_agg.precision import full_precision


class PreAggregator(Remembers, ABC):
    """Maps the gradients of M workers, ``(M, d)``, to the rows that an aggregator sees, ``(K, d)``.

    To write your own, subclass and define :meth:`weights`, if the rows are weighted sums of those of the
    workers, or else :meth:`forward`; the class is then known to the command line by its class path, as a step
    of ``PreAggregated``. Calling a pre-aggregator checks the matrix and drops the rows that hold a NaN or an
    infinity. Memory belongs in buffers that :meth:`memory` names, see :class:`~lightning_agg.memory.Remembers`.
    """

    equivariance: Equivariance | None = None
    """What it commutes with, as of :class:`~lightning_agg.aggregators.Aggregator`."""

    keeps_workers: bool = True
    """Whether row i that it makes is still that of worker i."""

    spreads_nonfinite: bool = False
    """Whether of rows that are not finite some that it makes are not either, as of the same."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_method(cls, PreAggregator.forward)
        require_method(cls, PreAggregator.weights)

    def __call__(self, gradients: Tensor, context: Context | None = None) -> Tensor:
        """``(M, d)`` -> ``(K, d)``, same dtype and device, without graph; ``gradients`` is never modified.

        Raises:
            SettingError: If ``gradients`` is not a floating matrix, or M breaks the bound.
        """
        require_matrix(gradients)
        self.check(len(gradients))
        gradients, context = gradients.detach(), context or NOTHING
        # set_grad_enabled takes half the time of torch.no_grad().
        with full_precision(gradients), torch.set_grad_enabled(False):
            if self.spreads_nonfinite:
                made: Tensor = super().__call__(gradients, context)
                if sum_is_finite(made):
                    return made
            rows, context = drop_nonfinite(gradients, context)
            return super().__call__(rows, context) if len(rows) else rows

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """``(M, d)`` finite rows, M at least 1 -> ``(K, d)``; called once a round."""
        weights = self.weights(gradients, context)
        assert weights is not None, f"{type(self).__name__} must define weights or forward"
        return combine(weights, gradients)

    @abstractmethod
    def weights(self, gradients: Tensor, context: Context) -> Tensor | None:
        """``(K, M)``, at least 0 and at most 1 in each row's total, with ``weights @ gradients`` what is made.

        ``None`` where it is no such sum.
        """

    def check(self, pool_size: int) -> None:
        """Raise :class:`SettingError` if it is not defined for ``pool_size`` rows; called before training."""

    def num_rows(self, pool_size: int) -> int:
        """K for M = ``pool_size``."""
        return pool_size

    def breakdown_point(self, pool_size: int, behind: int) -> int | None:
        """Byzantine rows among ``pool_size`` that a rule behind stands which stands ``behind`` of the rows made.

        ``None`` where no such number is known.
        """
        return None
