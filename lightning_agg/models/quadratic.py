"""Quadratic objectives, one for each worker, whose solution is known."""

import torch
from torch import Tensor, nn

from lightning_agg.errors import require


class Quadratic(nn.Module):
    r"""One point x; label k has the objective :math:`f_k(x) = \frac12 \sum_j \lambda_j (x_j - a_{k,j})^2`.

    With ``LabelPool`` worker k holds label k, so its gradient is :math:`\lambda \odot (x - a_k)` exactly, the optimum
    is the mean of the :math:`a_k`, and the coordinate-wise median leads to their median instead. The model's outputs
    are :math:`-f_k(x)`, and its loss is minus the output of the label; the input is ignored, and accuracy is
    meaningless.

    Reference:
        Chen et al., `Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms
        <https://arxiv.org/abs/1906.01736>`_, NeurIPS 2020, Figure 1: three workers, a = 1, 2, 10, x_0 = 0.0005.
        More coordinates and the curvatures are ours.

    Args:
        num_classes: Number of labels.
        centers: :math:`a_k` of each label, a number or a list of them, one for each coordinate.
        curvatures: :math:`\lambda_j` of each coordinate, above 0; all 1 when null.
        initial: Where x starts, a number or one for each coordinate.
        copies: The whole list of coordinates is repeated so often: the same problem on d times as many
            coordinates.

    Raises:
        SettingError: If the numbers of labels or coordinates do not agree, or a curvature is not positive.

    Example:
        >>> -Quadratic(3, centers=[1.0, 2.0, 10.0], initial=4.0)(torch.zeros(1, 1))
        tensor([[ 4.5000,  2.0000, 18.0000]], grad_fn=<NegBackward0>)
    """

    centers: Tensor
    curvatures: Tensor

    def __init__(
        self,
        num_classes: int,
        centers: list[float] | list[list[float]],
        curvatures: list[float] | None = None,
        initial: float | list[float] = 0.0,
        copies: int = 1,
    ) -> None:
        super().__init__()
        rows = [row if isinstance(row, list) else [row] for row in centers]
        require(
            len(rows) == num_classes,
            f"model.model.centers must hold one center per label (centers = {len(rows)}, labels = {num_classes}).",
        )
        size = len(rows[0])
        start = initial if isinstance(initial, list) else [initial] * size
        lengths = {"centers": {len(row) for row in rows}, "initial": {len(start)}}
        lengths |= {"curvatures": {len(curvatures)}} if curvatures is not None else {}
        for name, found in lengths.items():
            require(
                found == {size} and size > 0,
                f"model.model.{name} must have {max(size, 1)} coordinates as the first center has, got"
                f" {', '.join(map(str, sorted(found)))}.",
            )
        require(
            curvatures is None or min(curvatures) > 0,
            f"model.model.curvatures must be above 0, got {curvatures}.",
        )
        require(copies >= 1, f"model.model.copies must be at least 1, got {copies}.")
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float64).repeat(copies).float())
        self.register_buffer("centers", torch.tensor(rows).repeat(1, copies), persistent=False)
        ones = [1.0] * size if curvatures is None else curvatures
        self.register_buffer("curvatures", torch.tensor(ones).repeat(copies), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Anything of B samples -> ``(B, num_classes)``, minus the objective of each label."""
        objectives = 0.5 * (self.curvatures * (self.point - self.centers).square()).sum(dim=1)
        return -objectives.expand(len(inputs), -1)

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The objective of each sample's label."""
        return -outputs.gather(1, targets[:, None])[:, 0]
