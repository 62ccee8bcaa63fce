"""Flipped bits: the sign, or several bits of every number."""

from typing import Literal

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require

MASK = -(2**31) + 2**30 + 2**29 + 2**21
"""The bits 32 (sign), 31, 30 (exponent) and 22 (fraction) of an int32, the lowest being bit 1."""


class BitFlip(Attack):
    r"""Flips bits of a gradient: the sign of one honest worker's, or four bits of every float32 of its own.

    ``sign``: all attackers send minus the gradient of one honest worker. ``bits``: every attacker sends its own
    gradient as float32, in which the 22nd, 30th, 31st and 32nd bit of each number are flipped. A number between
    :math:`2^{-63}` and 2 in size becomes about :math:`-2^{64}` times itself; larger ones vanish, smaller ones and 0
    become as huge or, rarely, not finite. In float16, which ends at 65,504, most are not finite, and the server drops the row.

    Cost: :math:`O(f d)`.

    Reference:
        ``sign``: Xie et al., `Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
        Fault-tolerance <https://arxiv.org/abs/1805.10032>`_, ICML 2019, experiments: :math:`-g_0` by all, where
        the authors' worker 0 may be an attacker.
        ``bits``: Xie et al., `Generalized Byzantine-tolerant SGD <https://arxiv.org/abs/1802.10116>`_, 2018,
        experiments. There one of 20 workers, drawn for each of the first 1000 coordinates, is hit; here the
        Byzantine workers are (``coordinates: 1000`` for the same columns).

    Args:
        kind: Whether the sign or the four bits are flipped.
        worker: For ``sign``: pool-wide index of the worker whose gradient is negated, as for :class:`Mimic`.
        coordinates: For ``bits``: number of coordinates hit, the first ones; all when ``None``.

    Raises:
        SettingError: If ``kind`` is unknown, ``worker`` is negative, ``coordinates`` is below 1, or one of them
            is given for the other kind; before training, if ``worker`` is not below ``pool_size``.

    Example:
        >>> honest, own = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
        >>> BitFlip()(honest, own)
        tensor([[-1.,  2.],
                [-1.,  2.]])
        >>> BitFlip(kind="bits", coordinates=1)(honest, own)
        tensor([[-4.6117e+19,  1.0000e+00],
                [-2.3058e+19,  1.0000e+00]])
    """

    spreads_nonfinite = True

    def __init__(
        self,
        kind: Literal["sign", "bits"] = "sign",
        worker: int | None = None,
        coordinates: int | None = None,
    ) -> None:
        require(kind in ("sign", "bits"), f"BitFlip.kind must be sign or bits, got {kind!r}.")
        require(
            worker is None or (kind == "sign" and worker >= 0),
            f"BitFlip.worker must be at least 0, and null for kind bits (worker = {worker}, kind = {kind}).",
        )
        require(
            coordinates is None or (kind == "bits" and coordinates >= 1),
            "BitFlip.coordinates must be at least 1, and null for kind sign"
            f" (coordinates = {coordinates}, kind = {kind}).",
        )
        self.kind = kind
        self.worker = worker
        self.coordinates = coordinates

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """One row for all, or each attacker's own with flipped bits."""
        if self.kind == "sign":
            return -honest[context.honest_row(self.worker)]
        flipped = own.float().view(torch.int32).bitwise_xor(MASK).view(torch.float32)
        if self.coordinates is None:
            return flipped
        return torch.cat([flipped[:, : self.coordinates].to(own.dtype), own[:, self.coordinates :]], dim=1)

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """The worker must be in the pool."""
        require(
            self.worker is None or self.worker < pool_size,
            f"BitFlip.worker must be below data.pool_size = {pool_size}, got {self.worker}.",
        )
