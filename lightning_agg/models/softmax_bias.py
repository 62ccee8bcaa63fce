"""Softmax regression without features, whose solution is known."""

import torch
from torch import Tensor, nn

from lightning_agg.errors import require


class SoftmaxBias(nn.Module):
    r"""One score per class, whatever the input: :math:`f_k(z) = -\log p_k`, :math:`p = \operatorname{softmax}(z)`.

    With ``LabelPool`` worker k holds label k alone, its gradient is :math:`p - e_k`, and the optimum is the
    uniform distribution. The majority vote of K >= 3 workers then moves all scores alike and p stays for ever; the
    coordinate-wise median is p and converges.

    Args:
        num_classes: Number of classes.
        initial: Where the scores z start, one for each class; all 0 when null.

    Raises:
        SettingError: If there is not one initial score per class.

    Example:
        >>> SoftmaxBias(3, initial=[2.0, 1.0, 0.0])(torch.zeros(1, 1))
        tensor([[2., 1., 0.]], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, num_classes: int, initial: list[float] | None = None) -> None:
        super().__init__()
        start = [0.0] * num_classes if initial is None else initial
        require(
            len(start) == num_classes,
            f"model.model.initial must hold one score per class (initial = {len(start)}, classes = {num_classes}).",
        )
        self.scores = nn.Parameter(torch.tensor(start, dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """Anything of B samples -> ``(B, num_classes)``, the scores."""
        return self.scores.expand(len(inputs), -1)
