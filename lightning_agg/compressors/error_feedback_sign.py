"""Signs with memory of what they left out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_agg.compressors.base import FLOAT_BITS, CompressionContext, Compressor
from lightning_agg.errors import require


class ErrorFeedbackSign(Compressor):
    r"""Sends, of the gradient plus what earlier messages left out, the signs and one mean magnitude per tensor.

    Worker i sends :math:`\Delta_i = \frac{\lVert p_i \rVert_1}{d} \operatorname{sign}(p_i)` with
    :math:`p_i = g_i + e_i` on each tensor of d coordinates, and keeps :math:`e_i \leftarrow p_i - \Delta_i`. What
    is left out in a round is sent later, so that with averaging it converges where plain signSGD does not. A worker
    that does not take part in a round keeps its memory, and so does one whose gradient is not finite.

    Reference:
        Karimireddy, Rebjock, Stich, Jaggi, `Error Feedback Fixes SignSGD and other Gradient Compression Schemes
        <https://arxiv.org/abs/1901.09847>`_, ICML 2019, Algorithm 1 (EF-signSGD), per tensor as in its
        experiments. Deviations: the learning rate is the server's, so the memory is in units of gradients where
        the paper's is in units of steps, which is the same while the learning rate is constant; and there are M
        workers, each with its own memory. As in the authors' code the sign of 0 is 0, though one bit is counted.

    Example:
        >>> compressor = ErrorFeedbackSign()
        >>> compressor(torch.tensor([[3.0, -1.0]]))
        tensor([[ 2., -2.]])
        >>> compressor(torch.tensor([[3.0, -1.0]]))  # plus the error (1, 1) of the first message
        tensor([[2., 0.]])
    """

    def __init__(self) -> None:
        self.errors: dict[int, Tensor] = {}

    def forward(self, gradients: Tensor, context: CompressionContext) -> Tensor:
        """Signs times mean magnitudes; the rest is kept."""
        assert context.workers is not None
        assert context.sizes is not None
        nothing = gradients.new_zeros(gradients.shape[1])
        errors = [self.errors.get(worker, nothing).to(nothing) for worker in context.workers]
        for error in errors:
            require(
                error.shape == nothing.shape,
                f"ErrorFeedbackSign remembers d = {len(error)} coordinates, got d = {len(nothing)}: take another one.",
            )
        wanted = gradients + torch.stack(errors)
        parts = torch.split(wanted, list(context.sizes), dim=1)
        sent = torch.cat([part.abs().mean(dim=1, keepdim=True) * part.sign() for part in parts], dim=1)
        left = wanted - sent.to(context.dtype)  # what is lost by rounding to half precision is an error, too
        for row, worker in enumerate(context.workers):
            if bool(left[row].isfinite().all()):
                self.errors[worker] = left[row].clone()  # a view would keep the whole matrix, and save it
        return sent

    def bits(self, sizes: Sequence[int]) -> float:
        """One for each coordinate, and a float for each tensor."""
        return float(sum(sizes) + FLOAT_BITS * len(sizes))

    def state_dict(self) -> dict[str, Any]:
        """The error of each worker that has sent, ``(d,)``."""
        return {"errors": dict(self.errors)} if self.errors else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Compressor.load_state_dict`."""
        self.errors = dict(state.get("errors", {}))
