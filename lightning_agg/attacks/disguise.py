"""Another attack, whose rows do not look alike."""

from typing import Any

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require, require_positive
from lightning_agg.seeding import normal


class Disguise(Attack):
    r"""Adds to every row of another attack noise of its own, :math:`s` times as long as the row.

    Most attacks send one and the same row from all attackers, which a rule that looks for copies (``distrust_copies`` of
    ``Recurrent``, FoolsGold) tells at once. The mean of the rows, which does the harm, hardly changes. A row that is
    not finite, or 0, stays as it is.

    Cost: that of the attack, and :math:`O(f d)`.

    Reference:
        Fung et al., `The Limitations of Federated Learning in Sybil Settings
        <https://www.usenix.org/conference/raid2020/presentation/fung>`_, RAID 2020, whose sybils perturb what they send to
        evade FoolsGold. There the noise of pairs cancels; here it is independent.

    Args:
        attack: The attack.
        scale: Length :math:`s` of the noise in parts of the row's, above 0.

    Raises:
        SettingError: If ``attack`` is no attack, or ``scale`` is not a finite number above 0.

    Example:
        >>> from lightning_agg.attacks import Reverse
        >>> sent = Disguise(Reverse(scale=3.0), scale=0.1)(torch.ones(4, 100), torch.ones(2, 100))
        >>> [round(float((row + 3.0).norm() / 30), 2) for row in sent]
        [0.1, 0.1]
    """

    def __init__(self, attack: Attack, scale: float = 0.2) -> None:
        require(
            isinstance(attack, Attack),
            f"Disguise.attack must be an attack, got {type(attack).__name__}.",
        )
        require_positive("Disguise.scale", scale)
        self.attack = attack
        self.scale = scale
        self.remembers = attack.remembers

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The attack's rows, each with its noise."""
        rows = self.attack(honest, own, context)
        noise = torch.stack(
            [
                normal(own.shape[1], own.device, context.seed, "disguise", worker, context.round)
                for worker in context.byzantine
            ]
        ).to(rows.dtype)
        lengths, own_lengths = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (rows, noise))
        return torch.where(lengths.isfinite(), rows + self.scale * lengths / own_lengths * noise, rows)

    def poison(self, targets: Tensor, num_classes: int) -> Tensor:
        """As the attack does."""
        return self.attack.poison(targets, num_classes)

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """What the attack demands."""
        self.attack.check(pool_size, num_byzantine)

    def check_round(self, pool_size: int, num_byzantine: int) -> None:
        """What the attack demands."""
        self.attack.check_round(pool_size, num_byzantine)

    def state_dict(self) -> dict[str, Any]:
        """What the attack remembers."""
        return self.attack.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` gave."""
        self.attack.load_state_dict(state)
