"""Unbiased ternary gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_agg.compressors.base import FLOAT_BITS, CompressionContext, Compressor
from lightning_agg.errors import require_positive


class TernGrad(Compressor):
    r"""Sends -s, 0 or s for each coordinate, with s the largest magnitude in its tensor and the mean kept.

    Per tensor :math:`\hat g = s \operatorname{sign}(g) \circ b` with :math:`P(b_k = 1) = \lvert g_k \rvert / s`.
    Clipping first makes s smaller, and with it the variance, at the price of a bias.

    Reference:
        Wen, Xu, Yan, Wu, Wang, Chen, Li, `TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
        Learning <https://arxiv.org/abs/1705.07878>`_, NeurIPS 2017, Algorithm 1 and section 3 (per tensor, gradient
        clipping). Deviations: workers do not share the largest of their scalers, which the paper does to save
        bits on the way back from the server; the deviation for clipping is taken around 0, the mean that
        the paper assumes, so that a tensor of one coordinate is not clipped away.

    Args:
        clip: Clip each tensor to this many of its standard deviations first; not at all when null. The paper's
            experiments have 2.5.

    Raises:
        SettingError: If ``clip`` is not positive.

    Example:
        >>> TernGrad()(torch.tensor([[2.0, -2.0, 0.0]]))
        tensor([[ 2., -2.,  0.]])
    """

    def __init__(self, clip: float | None = None) -> None:
        if clip is not None:
            require_positive("compressor.clip", clip)
        self.clip = clip

    def forward(self, gradients: Tensor, context: CompressionContext) -> Tensor:
        """The ternary rows."""
        assert context.sizes is not None
        draws = torch.split(context.uniform(gradients), list(context.sizes), dim=1)
        parts = torch.split(gradients, list(context.sizes), dim=1)
        return torch.cat([self._ternary(part, u) for part, u in zip(parts, draws, strict=True)], dim=1)

    def _ternary(self, part: Tensor, draws: Tensor) -> Tensor:
        if self.clip is not None:
            length = torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=torch.float64)
            bound = (self.clip * length / part.shape[1] ** 0.5).to(part.dtype)
            part = part.clamp(-bound, bound)
        scaler = part.abs().amax(dim=1, keepdim=True)
        # Of zeros, 0 / 0 is below no draw; a NaN is passed on by the product.
        return scaler * part.sign() * (draws < part.abs() / scaler)

    def bits(self, sizes: Sequence[int]) -> float:
        """log2(3) for each coordinate, and a float for each tensor."""
        return sum(sizes) * math.log2(3) + FLOAT_BITS * len(sizes)
