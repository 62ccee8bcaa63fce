"""What an attack may key its randomness by, and whom it attacks."""

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Self

import torch
from torch import Tensor

from lightning_agg.aggregators.base import Equivariance
from lightning_agg.errors import require


@dataclass(frozen=True)
class AttackContext:
    """One round as the attackers see it.

    Args:
        round: Index t of the round, from 0.
        seed: Seed of the attack's randomness.
        byzantine: Pool-wide index of each Byzantine row, in row order; the lowest that are free when empty.
        honest: Pool-wide index of each honest row, in row order; the lowest that are free when empty.
        passed_over: Pool-wide index of each worker whose honest row is not among them, as it is not finite.
        aggregate: The server's rule on a full ``(M, d)`` matrix, without touching its memory.
        equivariance: What ``aggregate`` commutes with, as of :class:`Aggregator`.
    """

    round: int = 0
    seed: int = 0
    byzantine: tuple[int, ...] = ()
    honest: tuple[int, ...] = ()
    passed_over: tuple[int, ...] = ()
    aggregate: Callable[[Tensor], Tensor] | None = None
    equivariance: Equivariance | None = None

    def numbered(self, num_honest: int, num_byzantine: int) -> Self:
        """The same round with one index for each row; where they were left empty, the lowest free ones.

        Raises:
            SettingError: If indices were given, but not one for each row.
        """
        for name, indices, rows in (
            ("honest", self.honest, num_honest),
            ("byzantine", self.byzantine, num_byzantine),
        ):
            require(
                len(indices) in (0, rows),
                f"context.{name} must hold one index for each {name} row, got {len(indices)} for {rows} rows.",
            )
        honest = self.honest or _lowest(num_honest, taken=self.byzantine + self.passed_over)
        byzantine = self.byzantine or _lowest(num_byzantine, taken=honest + self.passed_over)
        return replace(self, honest=honest, byzantine=byzantine)

    @property
    def pool_size(self) -> int:
        """Workers of the round, M, passed over or not."""
        return len({*self.honest, *self.passed_over, *self.byzantine})

    def honest_row(self, worker: int | None = None) -> int:
        """The row of honest worker ``worker``, or else of the next honest one; of the lowest when ``None``.

        The next is the lowest index above ``worker``, or where there is none the lowest of all.
        """
        first = worker or 0
        return min(range(len(self.honest)), key=lambda row: (self.honest[row] < first, self.honest[row]))

    def pool(self, honest: Tensor, sent: Tensor) -> tuple[Tensor, list[int]]:
        """What the server gets: a row for each worker of the round, by ascending index; and which are ``sent``.

        The rows of those passed over are NaN, so that the rule drops and counts them here as it will at the server.
        Where the attackers stand on both sides, only what they send counts.
        """
        rows = dict.fromkeys(self.passed_over, honest.new_tensor(torch.nan).expand(honest.shape[1:]))
        rows.update(zip(self.honest, honest, strict=True))
        rows.update(zip(self.byzantine, sent, strict=True))
        order = sorted(rows)
        return torch.stack([rows[worker] for worker in order]), [
            order.index(worker) for worker in self.byzantine
        ]


def _lowest(number: int, taken: Container[int]) -> tuple[int, ...]:
    return tuple(islice((index for index in count() if index not in taken), number))
