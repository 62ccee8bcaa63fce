"""Noise in proportion to the gradients, tensor by tensor."""

import torch
from torch import Tensor

from lightning_agg.errors import require_positive
from lightning_agg.noise_scales.base import NoiseContext, NoiseScale


class PerTensorScale(NoiseScale):
    r"""For each tensor of the model, a fraction of the largest absolute entry in any worker's gradient of it.

    It follows the gradients: no noise remains where all of them vanish. Every worker has to learn one number per
    tensor from the others. Entries that are not finite do not count, so a worker that computed one does not
    make the noise of the others infinite.

    Reference:
        Chen et al., `Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms
        <https://arxiv.org/abs/1906.01736>`_, NeurIPS 2020, CIFAR-10 experiment: :math:`b_i = 0.1 \max_j Q_{i,j}`
        with :math:`Q_{i,j}` the largest absolute element of node j's gradient of tensor i.

    Args:
        factor: The fraction, above 0.

    Raises:
        SettingError: If ``factor`` is not positive.

    Example:
        >>> gradients = torch.tensor([[1.0, -4.0, 0.0], [2.0, 3.0, -0.5]])
        >>> PerTensorScale(0.1)(gradients, NoiseContext(0, None, (2, 1)))
        tensor([0.4000, 0.4000, 0.0500])
    """

    def __init__(self, factor: float = 0.1) -> None:
        require_positive("noise.scale.factor", factor)
        self.factor = factor

    def __call__(self, gradients: Tensor, context: NoiseContext) -> Tensor:
        """``(d,)``, constant on each tensor."""
        finite = torch.where(gradients.isfinite(), gradients.abs(), 0).amax(dim=0)
        parts = torch.split(finite, list(context.sizes))
        return self.factor * torch.cat([part.amax().expand_as(part) for part in parts])
