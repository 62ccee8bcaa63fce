"""Base class of all compressors: what the server makes of the workers' messages, and their length."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.errors import require, require_tensor
from lightning_agg.precision import widened

FLOAT_BITS = 32
"""Bits of a scale, of which a message holds one for each block of coordinates."""


@dataclass(frozen=True)
class CompressionContext:
    """What a compressor may know besides the gradients.

    Attributes:
        round: Index t of the round, from 0.
        seed: Seed of the compressor's randomness.
        workers: Pool-wide indices of the rows; the rows' own numbers when ``None``.
        sizes: Coordinates of each tensor of the model, in the order of the columns; one tensor when ``None``.
        dtype: Of the message; that of the gradients when ``None``.
    """

    round: int = 0
    seed: int = 0
    workers: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None

    def uniform(self, gradients: Tensor) -> Tensor:
        """``(M, d)`` numbers uniform on [0, 1), keyed by (seed, worker, round)."""
        assert self.workers is not None
        draws = [
            seeding.uniform(
                gradients.shape[1], gradients.device, self.seed, "compression", worker, self.round
            )
            for worker in self.workers
        ]
        return torch.stack(draws).to(gradients.dtype)


class Compressor(ABC):
    """A lossy code for the rows that workers send.

    Only the values that the server decodes are simulated, and the length of the message is counted. To write your own,
    subclass and define :meth:`forward` and :meth:`bits`; the class is then known to the command line by its class path.
    One that remembers earlier rounds puts its memory in :meth:`state_dict`.

    A row with a non-finite entry must not come out finite: the aggregator would not see that it is broken.
    """

    def __call__(self, gradients: Tensor, context: CompressionContext | None = None) -> Tensor:
        """Rows ``(M, d)`` as the server decodes them, of the same dtype and device, without graph.

        Raises:
            SettingError: If ``gradients`` is no matrix, the context names other rows or columns, or :meth:`forward` returns others.
        """
        require(
            gradients.ndim == 2, f"gradients must be an (M, d) matrix, got shape {tuple(gradients.shape)}."
        )
        context = context or CompressionContext()
        size, columns = gradients.shape
        context = replace(
            context,
            workers=context.workers or tuple(range(size)),
            sizes=context.sizes or (columns,),
            dtype=gradients.dtype,
        )
        require(
            len(context.workers or ()) == size and sum(context.sizes or ()) == columns,
            f"context must name the rows and the columns of an {size} x {columns} matrix, got"
            f" {len(context.workers or ())} workers and sizes {context.sizes}.",
        )
        # Squares of half precision vanish, and its draws are rounded to 1.
        wide = widened(gradients.detach())
        with torch.no_grad():
            sent = self.forward(wide, context)
        require_tensor(f"{type(self).__name__}.forward", sent, wide.shape)
        return sent.to(gradients.dtype)

    @abstractmethod
    def forward(self, gradients: Tensor, context: CompressionContext) -> Tensor:
        """The decoded rows ``(M, d)``; called once a round.

        ``context`` names every row and the size of every tensor. Must not modify its argument. Randomness comes from
        :meth:`CompressionContext.uniform`.
        """

    @abstractmethod
    def bits(self, sizes: Sequence[int]) -> float:
        """Bits of one worker's message, for a model whose tensors have ``sizes`` coordinates.

        Each coordinate counts the logarithm of the number of values that it may take, and each scale 32; a code
        adapted to the data (the Elias code of QSGD) may need fewer.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the compressor remembers, as tensors and numbers: part of every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` gave; with an empty one, forget."""
