"""Base class of the callbacks that see the gradient matrix."""

from typing import TYPE_CHECKING

import lightning as L
from torch import Tensor

from lightning_agg.data.pool import RoundBatch

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule

VALIDATION_EPISODES = 1 << 40
"""Where the episodes of ``MetaLearner``'s validation begin: none of them is ever trained on."""

TEST_EPISODES = 2 * VALIDATION_EPISODES
"""Where those of its test begin: no aggregator is ever chosen by them."""


class PoolCallback(L.Callback):
    """A callback with hooks inside a round.

    :class:`~lightning_agg.modules.ParameterServer` calls the hooks in the order in which they stand here, each on all
    callbacks of the trainer: first every ``on_worker_gradients``, then every ``on_compression``, then every
    ``on_byzantine_gradients``. They run in every process, on the whole matrix, and must do the same in each.

    ``gradients`` is ``(M, d)``, one row for each of ``batch.workers``; a hook returns the matrix to go on
    with and must not modify its argument.
    """

    byzantine: frozenset[int] = frozenset()
    """Pool-wide indices of the workers that this callback makes Byzantine."""

    @property
    def who(self) -> str:
        """Whose doing is what the hooks do, as warnings name it."""
        return type(self).__name__

    def active(self, index: int) -> bool:
        """Whether they are so in round ``index``, and do not only wait."""
        return True

    def on_episode(self, trainer: L.Trainer, pl_module: "PoolModule", episode: int) -> None:
        """Called by ``MetaLearner`` before each round, as tasks in different episodes take turns."""

    def on_worker_batch(self, trainer: L.Trainer, pl_module: "PoolModule", batch: RoundBatch) -> RoundBatch:
        """Called before gradients are computed, with the batches of this process's workers only."""
        return batch

    def on_worker_gradients(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """Called with what every worker computed, before compression and before any attack: noise."""
        return gradients

    def on_compression(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """Called by ``ParameterServer`` with what every worker wants to send, to make it what the server decodes."""
        return gradients

    def on_byzantine_gradients(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """Called with what every worker would send, to replace the rows of Byzantine workers."""
        return gradients

    def on_after_aggregation(
        self,
        trainer: L.Trainer,
        pl_module: "PoolModule",
        gradients: Tensor,
        aggregate: Tensor,
        batch: RoundBatch,
    ) -> None:
        """Called after the server's step, to look at what was sent and at the ``(d,)`` aggregate."""
