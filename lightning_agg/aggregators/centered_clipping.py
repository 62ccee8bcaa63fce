"""Centered clipping."""

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import distances_to
from lightning_agg.errors import SettingError, require_count, require_positive
from lightning_agg.precision import widened


class CenteredClipping(Aggregator):
    r"""The last aggregate, moved by the mean deviation of the rows, each clipped to length :math:`\tau`.

    One iteration is
    :math:`v \leftarrow v + \frac{1}{M} \sum_i (x_i - v) \min(1, \tau / \lVert x_i - v \rVert)`.
    The first round starts from zero, the later ones from the last aggregate, which is kept in the buffer
    ``center``, in float32 or more: steps too short for the rows' dtype add up. A Byzantine row moves the result by at most :math:`\tau / M` an iteration, so :math:`\tau`
    must fit the scale of the honest deviations.

    Cost: :math:`O(M d)` an iteration, and memory for one vector from round to round.

    Breakdown: :math:`\lfloor (M - 1) / 2 \rfloor`: beyond, the attackers pull the center further away each round. The paper's
    guarantee asks for fewer.

    Reference:
        Karimireddy et al., `Learning from History for Byzantine Robust Optimization
        <https://arxiv.org/abs/2012.10333>`_, ICML 2021, Algorithm 2. The paper applies it to worker momenta
        (``model.momentum``).

    Args:
        radius: Clipping radius :math:`\tau`, positive.
        iterations: Iterations in a round, at least 1.

    Raises:
        ValueError: If an argument is not as above, or the width of the rows changes without :meth:`reset`.

    Example:
        >>> aggregator = CenteredClipping(radius=2.0)
        >>> gradients = torch.tensor([[1.0], [1.0], [1.0], [1e9]])
        >>> aggregator(gradients), aggregator(gradients)
        (tensor([1.2500]), tensor([1.5625]))
    """

    spreads_nonfinite = True  # through the distance to it

    center: Tensor

    def __init__(self, radius: float = 100.0, iterations: int = 1) -> None:
        super().__init__()
        require_positive("radius", radius)
        require_count("iterations", iterations, minimum=1)
        self.radius = radius
        self.iterations = iterations
        self.register_buffer("center", torch.zeros(0))

    def memory(self) -> dict[str, Tensor]:
        """The last aggregate."""
        return {"center": self.center}

    def breakdown_point(self, pool_size: int) -> int:
        """A minority."""
        return (pool_size - 1) // 2

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """Move the center; return it."""
        center = self._moved_center(gradients)[0]
        self.center = center
        return center.to(gradients.dtype, copy=True)

    def shares(self, gradients: Tensor, context: Context) -> Tensor:
        """Weights of the rows; the rest, to 1, is the center's."""
        return self._moved_center(gradients)[1]

    def _moved_center(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The center and the weights of the rows in it, after all iterations."""
        rows = widened(gradients)
        size, start, tau = rows.shape[0], self._start(rows), self.radius
        center, shares = start, [0.0] * size
        # Lists, because for the tens of rows of a pool a call of torch or NumPy takes longer than the loop.
        for _ in range(self.iterations):
            lengths = distances_to(rows, center).tolist()
            factors = [tau / length / size if length > tau else 1 / size for length in lengths]
            rest = 1 - sum(factors)
            shares = [factor + rest * share for factor, share in zip(factors, shares, strict=True)]
            weights = torch.tensor(shares, dtype=rows.dtype, device=rows.device)
            center = torch.addmv(start, rows.T, weights, beta=1 - sum(shares))
        return center, weights

    def _start(self, rows: Tensor) -> Tensor:
        center = self.center
        if center.numel() == 0:
            return rows.new_zeros(rows.shape[1])
        if center.shape != rows.shape[1:]:
            raise SettingError(
                "CenteredClipping: the width of gradients must not change without reset()"
                f" (was {len(center)}, is {rows.shape[1]})."
            )
        return center if center.dtype == rows.dtype and center.device == rows.device else center.to(rows)
