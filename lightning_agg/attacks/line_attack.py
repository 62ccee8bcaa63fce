"""Attacks whose strength is one number."""

from abc import abstractmethod

from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext


class LineAttack(Attack):
    """An attack of which all rows are ``origin + factor * direction``.

    Subclasses give the line and the point on it; :class:`LineSearch` keeps the line and looks for the most
    harmful point.
    """

    @abstractmethod
    def line(self, honest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Origin and direction, ``(d,)`` each, of ``(H, d)`` and ``(f, d)`` rows; called once a round."""

    @abstractmethod
    def factor(
        self, honest: Tensor, own: Tensor, origin: Tensor, direction: Tensor, context: AttackContext
    ) -> float:
        """How far along its line the attack goes; called after :meth:`line`."""

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The point on the line, the same for all."""
        origin, direction = self.line(honest, own)
        return origin + self.factor(honest, own, origin, direction, context) * direction
