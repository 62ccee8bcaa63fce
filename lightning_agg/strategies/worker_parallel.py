"""Spreads the workers over processes."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor


class WorkerParallelStrategy(DDPStrategy):
    """Each process simulates a block of the workers; their gradients are gathered, never averaged.

    Every process then aggregates the same matrix and takes the same server step, so one process and several
    give the same bits. Lightning's own ``ddp`` would let the processes drift apart: it averages what ``backward``
    leaves in ``.grad``, and no round calls ``backward``.

    Args:
        kwargs: Arguments of Lightning's ``DDPStrategy``.
    """

    strategy_name = "worker_parallel"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def setup(self, trainer: L.Trainer) -> None:
        """Prepare the processes, and note a SIGTERM only.

        Lightning's answer to it is a broadcast in the middle of whatever its process does, so that the others, who do something
        else, hang or fail.
        """
        super().setup(trainer)
        trainer._signal_connector._sigterm_notifier_fn = self._note_sigterm  # type: ignore[method-assign, assignment]
        self._signals = trainer._signal_connector
        self._sigterm = False
        self._fitting = trainer.state.fn == "fit"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Agree on whether this round is the last: so it is in every process if one of them was told to terminate."""
        told = torch.tensor([int(self._sigterm)], device=self.root_device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        if told.item():
            self._signals.received_sigterm = True

    def _note_sigterm(self, signum: Any, frame: Any) -> None:
        self._sigterm = True
        if not self._fitting and not self._signals.received_sigterm:
            self._signals.received_sigterm = True  # an evaluation exchanges nothing before its end
            if self.launcher is not None:
                self.launcher.kill(signum)

    def configure_ddp(self) -> None:
        """Leave the module bare, and start every process from the parameters of the first."""
        assert self.lightning_module is not None
        for tensor in (*self.lightning_module.parameters(), *self.lightning_module.buffers()):
            torch.distributed.broadcast(tensor.data, src=0)

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        """The mean over processes is the value of each, which computed the same: (x + x + x) / 3 may differ in the last bit."""
        return tensor if reduce_op in ("mean", "avg") else super().reduce(tensor, group, reduce_op)

    def gather_workers(self, local: Tensor, pool_size: int) -> Tensor:
        """Rows of this process ``(m, ...)`` -> rows of all ``(M, ...)``, in rank order, without graph.

        Each process but the last ones holds ``ceil(M / world_size)`` rows; the others are padded for the exchange.
        """
        size = -(-pool_size // self.world_size)
        padded = local.new_zeros(size, *local.shape[1:])
        padded[: len(local)] = local
        gathered = local.new_empty(self.world_size * size, *local.shape[1:])
        torch.distributed.all_gather_into_tensor(gathered, padded)
        # Blocks are contiguous and only the last ones are short, so all padding stands at the end.
        return gathered[:pool_size]


if WorkerParallelStrategy.strategy_name not in StrategyRegistry:
    StrategyRegistry.register(
        WorkerParallelStrategy.strategy_name,
        WorkerParallelStrategy,
        description="Each process simulates a block of the workers; their gradients are gathered.",
    )
