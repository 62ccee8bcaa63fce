"""FLTrust."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import combine, contiguous_blocks, norms
from lightning_agg.errors import require, require_count
from lightning_agg.precision import wide_dtype


class FLTrust(Aggregator):
    r"""Mean of the rows, brought to the length of the server's own gradient and weighted by their trust.

    With the gradient :math:`g_0` on :math:`n` public samples, the trust in a row is
    :math:`T_i = \max(0, \cos(g_i, g_0))` and the aggregate
    :math:`\sum_i T_i \frac{\lVert g_0 \rVert}{\lVert g_i \rVert} g_i / \sum_i T_i`. Where no row is trusted
    (or :math:`g_0` is zero or not finite) it is zero: no step is taken. It works with a Byzantine majority.

    Cost: :math:`O(M d)`, and one gradient on :math:`n` samples.

    Breakdown: :math:`M - 1`: no row counts for more than the length of :math:`g_0`.

    Reference:
        Cao et al., `FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping
        <https://arxiv.org/abs/2012.13995>`_, NDSS 2021, equations 2 to 4, whose root set has 100 samples. The
        case that no row is trusted is ours (FLPoison trusts all equally then).

    Args:
        num_samples: Number :math:`n` of public samples that the server's gradient is averaged over, at least 1.

    Raises:
        ValueError: If ``num_samples`` is less than 1, or if the server has no public data.

    Example:
        >>> context = Context(public_gradient=lambda num_samples: torch.tensor([1.0, 0.0]))
        >>> FLTrust()(torch.tensor([[9.0, 0.0], [0.3, 0.4], [-1e9, 0.0]]), context)
        tensor([0.8500, 0.3000])
    """

    def __init__(self, num_samples: int = 100) -> None:
        super().__init__()
        require_count("num_samples", num_samples, minimum=1)
        self.public_samples = num_samples

    def breakdown_point(self, pool_size: int) -> int:
        """All but one."""
        return pool_size - 1

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The trusted mean of the rescaled rows."""
        trust, scales = self._trust(gradients, context)
        return combine(trust * scales, gradients)

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Trust in the rows, of sum 1, or 0 where none is trusted."""
        return self._trust(gradients, context)[0]

    def _trust(self, gradients: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Trust, of sum 1 or 0, and the factor that brings each row to the length of the reference."""
        require(
            context.public_gradient is not None,
            "FLTrust needs a gradient on the server's public data: data.public_size must be at least num_samples"
            f" (public_size = 0, num_samples = {self.public_samples}), or, in your own loop, pass a Context with"
            " public_gradient.",
        )
        assert context.public_gradient is not None
        reference = context.public_gradient(self.public_samples).to(gradients.device, torch.float64)
        scales = torch.linalg.vector_norm(reference) / norms(gradients)
        blocks = contiguous_blocks(torch.float64, gradients, reference)
        inner = torch.stack([rows @ part for rows, part in blocks]).sum(dim=0)
        trust = (inner * scales / reference.square().sum()).clamp(0, 1)
        # The factor of a row of next to nothing is too large for the rows' type.
        largest = torch.finfo(wide_dtype(gradients)).max
        known = trust.isfinite() & (scales <= largest)
        trust, scales = torch.where(known, trust, 0), torch.where(known, scales, 0)
        return trust / trust.sum().clamp(min=torch.finfo(trust.dtype).tiny), scales
