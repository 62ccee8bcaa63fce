"""Base class of all attacks: honest rows in, Byzantine rows out."""

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from lightning_agg.aggregators.matrix import finite_rows, sum_is_finite
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require, require_method
from lightning_agg.precision import full_precision


class Attack(ABC):
    """What the Byzantine workers send instead of their gradients.

    The attackers are omniscient: they see every honest row of the round before they answer. To write your
    own, subclass and define :meth:`forward`; the class is then known to the command line by its class path::

        class Echo(Attack):
            def forward(self, honest, own, context):
                return 2 * honest[0].expand_as(own)

    An attack on the *data* overrides :meth:`poison` instead and lets :meth:`forward` return ``own``. One that
    remembers earlier rounds says so by ``remembers`` and puts its memory in :meth:`state_dict`.
    """

    remembers: bool = False
    """Whether a round depends on the rounds before it."""

    spreads_nonfinite: bool = False
    """Whether an honest row that is not finite makes what is sent so, or changes nothing: then they are only looked at where that happens.

    It must not remember, as such a round calls :meth:`forward` twice.
    """

    needs_rule: bool = False
    """Whether it must be told the server's aggregator, which not every module does."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_method(cls, Attack.forward)

    def __call__(self, honest: Tensor, own: Tensor, context: AttackContext | None = None) -> Tensor:
        """Honest rows ``(H, d)`` and the attackers' own honest answers ``(f, d)`` -> rows to send ``(f, d)``.

        Honest rows that are not finite are passed over, as the server drops them. Where none is left (H = 0), the attackers
        take their own answers for the honest ones. Same dtype and device as ``own``, no graph. The rows may be views, of each other and of the
        arguments: copy them into the pool's matrix before you write to them.

        Raises:
            SettingError: If the two are not matrices of the same width, the context names other rows, or :meth:`forward` returns none.
        """
        require(
            isinstance(honest, Tensor) and isinstance(own, Tensor),
            f"honest and own must be torch.Tensors, got {type(honest).__name__} and {type(own).__name__}.",
        )
        require(
            honest.ndim == own.ndim == 2 and honest.shape[1] == own.shape[1],
            "honest and own must be (H, d) and (f, d) matrices of one width, got shapes"
            f" {tuple(honest.shape)} and {tuple(own.shape)}.",
        )
        if len(own) == 0:
            return own.detach().clone()
        context = (context or AttackContext()).numbered(len(honest), len(own))
        with torch.no_grad(), full_precision(own):
            rows = self._rows(honest.detach(), own.detach(), context)
        return rows.expand_as(own).to(own.dtype)

    def _rows(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        if self.spreads_nonfinite and len(honest):
            rows = self._sent(honest, own, context)
            if sum_is_finite(rows) or finite_rows(honest) is ...:
                return rows
        return self._sent(*_finite(honest, own, context))

    def _sent(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        rows = self.forward(honest, own, context)
        is_tensor = isinstance(rows, Tensor)
        require(
            is_tensor
            and rows.ndim <= 2
            and all(n in (1, m) for n, m in zip(rows.shape[::-1], own.shape[::-1], strict=False)),
            f"{type(self).__name__}.forward must return a torch.Tensor of rows that expand to shape {tuple(own.shape)}, got"
            f" {tuple(rows.shape) if is_tensor else type(rows).__name__}.",
        )
        return rows

    @abstractmethod
    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The Byzantine rows, ``(f, d)`` or anything that expands to it; called once a round, H and f >= 1.

        ``context.honest`` and ``context.byzantine`` name every row, ``context.passed_over`` whose are not finite. Must not
        modify its arguments. Randomness is keyed by ``context`` through :mod:`lightning_agg.seeding`.
        """

    def poison(self, targets: Tensor, num_classes: int) -> Tensor:
        """Labels that a Byzantine worker trains on instead of ``targets``; called before gradients are computed."""
        return targets

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """Raise :class:`SettingError` if the attack is not defined for these numbers; called before training."""

    def check_round(self, pool_size: int, num_byzantine: int) -> None:
        """Likewise for a round in which only so many take part; called before training for all that may come."""

    def state_dict(self) -> dict[str, Any]:
        """What the attack remembers, as tensors, numbers and strings: part of every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` gave; with an empty one, forget."""


def _finite(honest: Tensor, own: Tensor, context: AttackContext) -> tuple[Tensor, Tensor, AttackContext]:
    """The arguments of :meth:`Attack.forward` without the honest rows that are not finite."""
    kept = finite_rows(honest)
    if kept is ... and len(honest):
        return honest, own, context
    keeps = [] if kept is ... else kept.tolist()
    left = tuple(compress(context.honest, keeps))
    lost = tuple(worker for worker in context.honest if worker not in left)
    context = replace(context, honest=left or context.byzantine, passed_over=context.passed_over + lost)
    return honest[kept] if left else own, own, context
