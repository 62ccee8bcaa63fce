"""Attacks that change what another attack sends."""

from typing import Any

from torch import Tensor

from lightning_agg.attacks.base import Attack


class Wrapper(Attack):
    """Demands, poisons and remembers what ``attack`` does; subclasses define :meth:`forward`."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.remembers = attack.remembers
        self.needs_rule = attack.needs_rule

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
