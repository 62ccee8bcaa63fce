"""Base class of all aggregators: rows of workers in, one gradient-like vector out."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_agg.aggregators.context import NOTHING, Context
from lightning_agg.aggregators.matrix import drop_nonfinite, finite_rows, require_matrix, sum_is_finite
from lightning_agg.errors import SettingError, require, require_method, require_tensor
from lightning_agg.memory import Remembers
from lightning_agg.precision import full_precision

Equivariance = Literal["columns", "signs", "rotations", "mixed", "linear"]


class Aggregator(Remembers, ABC):
    """Maps the gradients of M workers to the vector that the server's optimizer descends.

    To write your own, subclass and define :meth:`forward`; the class is then known to the command line by
    its class path::

        class Midrange(Aggregator):
            def forward(self, gradients, context):
                return (gradients.amin(0) + gradients.amax(0)) / 2

    Calling an aggregator checks the matrix, drops every row that holds a NaN or an infinity (``num_nonfinite``
    counts them) and hands the finite rows to :meth:`forward`. If no row is left, or the rows are so large
    that the aggregate overflows, the aggregate is zero: no step is taken.

    Memory belongs in buffers that :meth:`memory` names, see :class:`~lightning_agg.memory.Remembers`.
    """

    num_nonfinite: int = 0
    """Rows dropped in the last call because they were not finite."""

    num_overflows: int = 0
    """Calls so far in which the aggregate of finite rows was not finite."""

    public_samples: int = 0
    """Samples of the server's public data that the rule asks its context for in a round."""

    equivariance: Equivariance | None = None
    """What a rule without memory and context commutes with, so that attacks may try it on a smaller matrix.

    ``columns``: choosing columns, and scaling them; each coordinate of the aggregate depends on that of the rows alone.
    ``signs``: choosing columns; scaling them changes nothing.
    ``rotations``: orthogonal maps of the rows, also to fewer dimensions where nothing is lost.
    ``mixed``: with weights that commute with rotations the rows are mixed, and then it commutes with ``columns``.
    ``linear``: all linear maps, because the aggregate is a sum of the rows with fixed weights.
    """

    ranks_lengths: bool = False
    """Whether it goes by the order of the rows' lengths, so that rounding decides among rows clipped to the same one."""

    remembers_workers: bool = False
    """Whether the rule knows a worker from round to round, so that its rows must be the workers'."""

    makes_step: bool = False
    """Whether the aggregate is a whole step, of which the server's optimizer should make no other: SGD without momentum."""

    trained: bool = True
    """Whether a rule that is learned has been."""

    hides_memory: bool = False
    """Whether it may carry something from round to round that is in none of its buffers."""

    spreads_nonfinite: bool = False
    """Whether a row that is not finite always makes the aggregate so: then rows are only checked where that happens."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_method(cls, Aggregator.forward)

    def __call__(self, gradients: Tensor, context: Context | None = None) -> Tensor:
        """``(M, d)`` -> ``(d,)``, same dtype and device, without graph; ``gradients`` is never modified.

        Raises:
            SettingError: If ``gradients`` is not a floating matrix of torch, or M breaks the rule's bound.
        """
        if getattr(gradients, "requires_grad", False):
            gradients = gradients.detach()
        memory = self.memory()
        if self.spreads_nonfinite:
            self._require(gradients)
            aggregate = self._aggregate(gradients, context or NOTHING)
            if sum_is_finite(aggregate):
                if self.num_nonfinite:
                    self.num_nonfinite = 0
                return aggregate
            self._restore(memory)
        rows, context = self.finite(gradients, context)
        if len(rows) == 0:
            return gradients.new_zeros(gradients.shape[1])
        aggregate = self._aggregate(rows, context)
        if not sum_is_finite(aggregate) and not bool(aggregate.isfinite().all()):
            self.num_overflows += 1
            self._restore(memory)
            return torch.zeros_like(aggregate)
        return aggregate

    def _aggregate(self, rows: Tensor, context: Context) -> Tensor:
        kind = rows.device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._aggregate(rows, context)
        writes = _writes(rows)
        # set_grad_enabled takes half the time of torch.no_grad().
        with torch.set_grad_enabled(False):
            aggregate: Tensor = super().__call__(rows, context)
        require_tensor(f"{type(self).__name__}.forward", aggregate, rows.shape[1:], rows.dtype)
        if _writes(rows) != writes:
            raise SettingError(
                f"{type(self).__name__}.forward must not write into the gradients, which others read after it, but into a copy."
            )
        return aggregate

    def trial(self, gradients: Tensor, context: Context | None = None) -> Tensor:
        """What a call would return, without being one: memory and counts stay as they are."""
        if any(part.hides_memory for part in self.modules() if isinstance(part, Aggregator)):
            return copy.deepcopy(self)(gradients, context)
        with self._unchanged():
            return self(gradients, context)

    @abstractmethod
    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """Aggregate ``(M, d)`` finite rows to ``(d,)`` of their type, without writing into them; called once a round.

        Rules told a number of attackers use ``context.remaining(self.num_byzantine)``: a dropped row was one
        of them.
        """

    def check(self, pool_size: int) -> None:
        """Raise :class:`SettingError` if the rule is not defined for ``pool_size`` rows; called before training."""

    def breakdown_point(self, pool_size: int) -> int | None:
        """Largest number of Byzantine rows among ``pool_size`` that leave the aggregate near the honest rows.

        They may be of any length and in any direction, from round to round; at least one row is honest. ``None``
        where no such number is known. A rule that is told a number of attackers stands that many, unless it says
        otherwise.
        """
        self.check(pool_size)
        told: int | None = getattr(self, "num_byzantine", None)
        return told

    def influence(self, gradients: Tensor, context: Context | None = None) -> Tensor | None:
        """Share of the aggregate that comes from each row, float32 ``(M,)``, at least 0, at most 1 in total.

        For a combination of rows, their weights; for a coordinate-wise rule, the mean over coordinates; 0
        for a dropped row. ``None`` for a rule that does not define it. Leaves memory and counts as they are.
        """
        self._require(gradients)
        rows, context = drop_nonfinite(gradients, context or NOTHING)
        shares = torch.zeros(len(gradients), dtype=torch.float32, device=gradients.device)
        with self._unchanged(), torch.no_grad(), full_precision(rows):
            share = self.shares(rows.detach(), context) if len(rows) else shares[:0]
        if share is None:
            return None
        shares[finite_rows(gradients)] = share.to(shares)
        return shares

    def shares(self, gradients: Tensor, context: Context) -> Tensor | None:
        """:meth:`influence` of finite rows; override where it is defined."""
        return None

    def finite(self, gradients: Tensor, context: Context | None) -> tuple[Tensor, Context]:
        """The checked matrix without its non-finite rows, and the context that counts them."""
        self._require(gradients)
        rows, context = drop_nonfinite(gradients, context or NOTHING)
        self.num_nonfinite = len(gradients) - len(rows)
        return rows, context

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Around what must leave every buffer and count as it is, whether :meth:`memory` names it or not."""
        parts = list(self.modules())
        buffers = [(part, dict(part.named_buffers(recurse=False))) for part in parts]
        counts = [
            (part, part.num_nonfinite, part.num_overflows) for part in parts if isinstance(part, Aggregator)
        ]
        try:
            yield
        finally:
            for part, memory in buffers:
                for name, buffer in memory.items():
                    setattr(part, name, buffer)
            for part, *counted in counts:
                part.num_nonfinite, part.num_overflows = counted

    def _require(self, gradients: Tensor) -> None:
        require_matrix(gradients)
        self.check(gradients.shape[0])  # len() of a tensor takes longer


def _writes(rows: Tensor) -> int:
    """How often it has been written into them, which of tensors of inference mode nobody knows."""
    return 0 if rows.is_inference() else rows._version


def require_minority(name: str, num_byzantine: int, pool_size: int) -> None:
    """Check that the declared attackers of rule ``name`` are fewer than half of the rows."""
    require(
        2 * num_byzantine < pool_size,
        f"{name}: num_byzantine must satisfy 2 f < M (f = {num_byzantine}, M = {pool_size}).",
    )
