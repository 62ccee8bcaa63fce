"""Another attack, whose rows do not look alike."""

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import row_lengths
from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.wrapper import Wrapper
from lightning_agg.errors import require, require_positive
from lightning_agg.seeding import normal


class Disguise(Wrapper):
    r"""Adds to every row of another attack noise of its own, :math:`s` times as long as the row.

    Most attacks send one and the same row from all attackers, which a rule that looks for copies (``distrust_copies`` of
    ``Recurrent``, FoolsGold) tells at once. The mean of the rows, which does the harm, hardly changes. A row that is
    not finite, or would not be, or 0, stays as it is.

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
        super().__init__(attack)
        self.scale = scale

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The attack's rows, each with its noise."""
        rows = self.attack(honest, own, context)
        noise = torch.stack(
            [
                normal(own.shape[1], own.device, context.seed, "disguise", worker, context.round)
                for worker in context.byzantine
            ]
        )
        dtype = torch.promote_types(rows.dtype, noise.dtype)
        lengths, own_lengths = (row_lengths(x).to(dtype)[:, None] for x in (rows, noise))
        disguised = (rows + self.scale * lengths / own_lengths * noise).to(rows.dtype)
        return torch.where(disguised.isfinite().all(dim=1, keepdim=True), disguised, rows)
