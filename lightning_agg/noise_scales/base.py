"""Base class of all noise scales: a round in, the standard deviation b of its noise out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class NoiseContext(NamedTuple):
    """What a scale may know besides the gradients.

    Attributes:
        round: Index t of the round, from 0.
        num_rounds: Number T of rounds of the run; ``None`` where it is not known.
        sizes: Coordinates of each tensor of the model, in the order of the columns; they add up to d.
    """

    round: int
    num_rounds: int | None
    sizes: tuple[int, ...]


class NoiseScale(ABC):
    """How large the noise is.

    To write your own, subclass and define :meth:`__call__`; the class is then known to the command line by its
    class path.
    """

    scheduled: bool = False
    """Whether the scale depends on the round."""

    @abstractmethod
    def __call__(self, gradients: Tensor, context: NoiseContext) -> float | Tensor:
        """Standard deviation b of the noise on ``gradients`` ``(M, d)``: a number, or ``(d,)``, one per coordinate.

        Called once a round, before the noise is drawn; finite and at least 0 everywhere.
        """

    def check(self, num_rounds: int | None) -> None:
        """Raise :class:`SettingError` if the scale is not defined for so many rounds; called before training."""
