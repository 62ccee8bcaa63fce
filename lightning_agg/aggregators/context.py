"""What the server alone knows in a round, evaluated only when an aggregator asks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_agg.errors import require

_NO_PUBLIC_DATA = (
    "the aggregator needs the server's public data: data.public_size must be at least the aggregator's num_samples"
    " (public_size = 0), or, in your own loop, pass a Context with parameters, public_losses and public_gradient."
)


@dataclass(frozen=True)
class Context:
    """The server's view of one round.

    Args:
        round: Index t of the round, from 0.
        seed: Seed of the run: the randomness of a rule is keyed by it.
        num_dropped: Rows already taken out because they were not finite.
        finite: If rows were taken out, the mask ``(M,)`` of those that stayed.
        pool_size: Workers there are; as many as rows when ``None``.
        lr: By what the server's optimizer multiplies the aggregate.
        workers: If not all take part in the round, which those of the M rows are, ``(M,)``.
        parameters: Gives the current parameters θ, ``(d,)``.
        public_losses: Maps parameter vectors ``(K, d)`` and a number n of samples to the ``(K,)`` mean losses
            on n public samples of this round, the same n for all K.
        public_gradient: Maps a number n of samples to the ``(d,)`` gradient on n public samples of this round.
    """

    round: int = 0
    seed: int = 0
    num_dropped: int = 0
    finite: Tensor | None = field(default=None, compare=False)
    pool_size: int | None = None
    lr: float = 1.0
    workers: Tensor | None = field(default=None, compare=False)
    parameters: Callable[[], Tensor] | None = None
    public_losses: Callable[[Tensor, int], Tensor] | None = None
    public_gradient: Callable[[int], Tensor] | None = None

    def remaining(self, num_byzantine: int) -> int:
        """Of ``num_byzantine`` declared attackers, those not yet caught by sending a non-finite row."""
        return max(num_byzantine - self.num_dropped, 0)

    def current_parameters(self) -> Tensor:
        """θ, ``(d,)``.

        Raises:
            SettingError: If the server has no public data.
        """
        require(self.parameters is not None and self.public_losses is not None, _NO_PUBLIC_DATA)
        assert self.parameters is not None
        return self.parameters()

    def gradient(self, num_samples: int) -> Tensor:
        """Gradient on the public samples of this round, ``(d,)``.

        Raises:
            SettingError: If the server has no public data.
        """
        require(self.public_gradient is not None, _NO_PUBLIC_DATA)
        assert self.public_gradient is not None
        return self.public_gradient(num_samples)

    def losses(self, vectors: Tensor, num_samples: int) -> Tensor:
        """Mean loss at each of the parameter vectors ``(K, d)`` on the public samples of this round, ``(K,)``.

        Raises:
            SettingError: If the server has no public data.
        """
        require(self.public_losses is not None, _NO_PUBLIC_DATA)
        assert self.public_losses is not None
        return self.public_losses(vectors, num_samples)

    def descents(self, gradients: Tensor, step_size: float, num_samples: int) -> Tensor:
        """Loss decrease ``f(θ) - f(θ - step_size * g)`` of a trial step along each row, ``(M, d)`` -> ``(M,)``.

        Raises:
            SettingError: If the server has no public data.
        """
        parameters = self.current_parameters()
        trials = parameters - step_size * gradients
        losses = self.losses(torch.cat([parameters[None], trials]), num_samples)
        return losses[0] - losses[1:]


NOTHING = Context()
"""What a server knows that was told nothing."""
