"""What is minimised: cross entropy, unless the model has a loss of its own.

A model with a method ``sample_losses(outputs, targets)`` that maps its ``(B, C)`` outputs and ``(B,)`` labels to
``(B,)`` losses is trained and validated by it.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each sample, ``(B, C)`` scores and ``(B,)`` labels -> ``(B,)``."""
    return F.cross_entropy(outputs, targets, reduction="none")


def owns_loss(model: nn.Module) -> bool:
    """Whether ``model`` has a loss of its own."""
    return hasattr(model, "sample_losses")


def sample_losses(model: nn.Module) -> Loss:
    """The loss of each sample by which ``model`` is trained."""
    own: Loss = getattr(model, "sample_losses", cross_entropy)
    return own


def mean_loss(model: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of ``outputs``, a scalar."""
    # Not the mean of the samples' cross entropies: that is the same only up to rounding.
    return (
        sample_losses(model)(outputs, targets).mean()
        if owns_loss(model)
        else F.cross_entropy(outputs, targets)
    )
