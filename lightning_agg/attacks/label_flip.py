"""Honest gradients of wrong labels."""

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require


class LabelFlip(Attack):
    r"""Trains on wrong labels, and sends the gradient honestly.

    Untargeted, every label :math:`y` of :math:`C` classes becomes :math:`C - 1 - y`, or with ``shift`` :math:`(y + \text{shift}) \bmod C`. Targeted, the
    ``source`` class is called ``target`` and all others keep their label.

    Cost: none beside the gradients.

    Reference:
        Untargeted: Xie et al., `Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
        Fault-tolerance <https://arxiv.org/abs/1805.10032>`_, ICML 2019, experiments.
        Targeted: Tolpegin et al., `Data Poisoning Attacks Against Federated Learning Systems
        <https://arxiv.org/abs/2007.08432>`_, ESORICS 2020.
        The labels of the attackers' own data are flipped; ByzFL takes gradients on the honest workers' data.

    Args:
        source: Class whose label is changed; all when ``None``.
        target: Label that it gets; given if and only if ``source`` is.
        shift: By how many classes every label is moved on; not when ``None``.

    Raises:
        SettingError: If only one of source and target is given, they are equal or negative, or no class of the data; if the shift is given beside them, or
            leaves every label as it is.

    Example:
        >>> LabelFlip().poison(torch.tensor([0, 1, 9]), num_classes=10)
        tensor([9, 8, 0])
        >>> LabelFlip(source=2, target=7).poison(torch.tensor([0, 2, 7]), num_classes=10)
        tensor([0, 7, 7])
        >>> LabelFlip(shift=1).poison(torch.tensor([0, 2, 9]), num_classes=10)
        tensor([1, 3, 0])
    """

    spreads_nonfinite = True

    def __init__(
        self, source: int | None = None, target: int | None = None, shift: int | None = None
    ) -> None:
        given = f"source = {source}, target = {target}"
        require(
            (source is None) == (target is None),
            f"LabelFlip.source and LabelFlip.target must be given together or not at all ({given}).",
        )
        require(
            source is None or source != target,
            f"LabelFlip.source must differ from LabelFlip.target ({given}).",
        )
        require(
            min(source or 0, target or 0) >= 0,
            f"LabelFlip.source and LabelFlip.target must be at least 0 ({given}).",
        )
        require(
            shift is None or (source is None and shift >= 1),
            f"LabelFlip.shift must be at least 1, and without source and target (shift = {shift}, {given}).",
        )
        self.source = source
        self.target = target
        self.shift = shift

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """``own``: the harm was done in the data."""
        return own

    def poison(self, targets: Tensor, num_classes: int) -> Tensor:
        """``num_classes - 1 - targets``, ``targets`` moved on, or ``targets`` with ``target`` for ``source``; negative ones, which no loss counts, stay."""
        return torch.where(targets < 0, targets, self._flipped(targets, num_classes))

    def _flipped(self, targets: Tensor, num_classes: int) -> Tensor:
        if self.shift is not None:
            require(
                self.shift < num_classes,
                f"LabelFlip.shift must be below the number of classes (shift = {self.shift}, classes = {num_classes}).",
            )
            return (targets + self.shift) % num_classes
        if self.source is None or self.target is None:
            return num_classes - 1 - targets
        require(
            max(self.source, self.target) < num_classes,
            "LabelFlip.source and LabelFlip.target must be below the number of classes"
            f" (source = {self.source}, target = {self.target}, classes = {num_classes}).",
        )
        return torch.where(targets == self.source, self.target, targets)
