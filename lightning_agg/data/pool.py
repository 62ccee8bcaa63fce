"""The workers' data: batch t of worker i is a function of (seed, i, t)."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.data.augment import crop_and_flip
from lightning_agg.data.samples import Samples
from lightning_agg.partitioners.base import Shards


class RoundBatch(NamedTuple):
    """What the workers of this process train on in one round.

    Attributes:
        round: Index t of the round, from 0.
        workers: Pool-wide indices of all workers taking part, in row order.
        local: Those of them whose batches are here: m, a contiguous block of ``workers``.
        inputs: ``(m, L, B, ...)`` for L local steps.
        targets: ``(m, L, B)`` labels.
        weights: ``(m, L, B)``, 1 for a sample and 0 for padding; ``None`` where nothing is padded.
    """

    round: int
    workers: tuple[int, ...]
    local: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    weights: Tensor | None


class WorkerPool:
    """The shards of M workers over one resident data set.

    A worker goes through its shard in a fresh random order each epoch, dropping the incomplete last batch.

    Args:
        data: All training samples.
        shards: Per worker, the indices of its samples.
        batch_size: Samples per worker and step; ``"full"``: the whole shard, in its own order.
        seed: Seed of the order and of the augmentation.
        augment: Whether to crop and flip.
    """

    def __init__(
        self,
        data: Samples,
        shards: Shards,
        batch_size: int | Literal["full"],
        seed: int,
        augment: bool = False,
    ) -> None:
        self.data = data
        self.shards = shards
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, workers: Sequence[int], step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs ``(m, B, ...)``, targets ``(m, B)`` and weights ``(m, B)`` or ``None`` of ``workers`` at ``step``."""
        rows = [self._indices(worker, step) for worker in workers]
        # The same length whichever workers are asked for: a worker's bits must not depend on its neighbours.
        length = max(map(len, self.shards)) if self.batch_size == "full" else self.batch_size
        padded = [
            row if len(row) == length else np.pad(row, (0, length - len(row)), mode="edge") for row in rows
        ]
        indices = torch.from_numpy(np.stack(padded)).to(self.data.labels.device)
        inputs, targets = self.data.read(indices)
        if self.augment:
            inputs = torch.stack(
                [
                    crop_and_flip(batch, self.seed, worker, step)
                    for worker, batch in zip(workers, inputs, strict=True)
                ]
            )
        if self.batch_size != "full" or min(map(len, self.shards)) == length:
            return inputs, targets, None
        lengths = torch.tensor([len(row) for row in rows], device=indices.device)
        return inputs, targets, (torch.arange(length, device=indices.device) < lengths[:, None]).float()

    def label_counts(self, num_classes: int) -> np.ndarray:
        """``(M, C)`` number of samples of each class that each worker holds."""
        labels = self.data.labels.cpu().numpy()
        return np.stack([np.bincount(labels[shard], minlength=num_classes) for shard in self.shards])

    def _indices(self, worker: int, step: int) -> np.ndarray:
        shard = self.shards[worker]
        if self.batch_size == "full":
            return shard
        epoch, position = divmod(step, len(shard) // self.batch_size)
        if self._orders.get(worker, (-1,))[0] != epoch:
            order = seeding.generator(self.seed, "batches", worker, epoch).permutation(shard)
            self._orders[worker] = (epoch, order)
        return self._orders[worker][1][position * self.batch_size :][: self.batch_size]


class Rounds:
    """The training loader: an endless run of :class:`RoundBatch`, of which Lightning takes ``len`` an epoch.

    The position is all its state, so a run resumes in the middle of an epoch.

    Args:
        pool: The workers' data.
        length: Rounds in an epoch.
        local_steps: Batches L of each worker in a round.
        participation: Fraction of the workers that takes part in a round, drawn anew each round.
        rank: Which block of the participants is local.
        world_size: Number of blocks.
    """

    def __init__(
        self,
        pool: WorkerPool,
        length: int,
        local_steps: int = 1,
        participation: float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pool = pool
        self.length = length
        self.local_steps = local_steps
        self.participation = participation
        self.rank = rank
        self.world_size = world_size
        self.round = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[RoundBatch]:
        while True:
            # Before the yield: Lightning never asks for the batch after the last one.
            self.round += 1
            yield self.batch(self.round - 1)

    def batch(self, index: int) -> RoundBatch:
        """Round ``index``, whatever was asked before."""
        workers = participants(len(self.pool), self.participation, self.pool.seed, index)
        local = block(workers, self.rank, self.world_size)
        # A process left without a worker still needs a batch of the right shape, with no rows.
        asked, steps = local or workers[:1], range(index * self.local_steps, (index + 1) * self.local_steps)
        inputs, targets, weights = zip(*(self.pool.batch(asked, step) for step in steps), strict=True)
        return RoundBatch(
            index,
            workers,
            local,
            _stack(inputs)[: len(local)],
            _stack(targets)[: len(local)],
            None if weights[0] is None else _stack(weights)[: len(local)],
        )

    def state_dict(self) -> dict[str, int]:
        """The position, for the checkpoint."""
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the last round of the checkpoint."""
        self.round = state["round"]


class Windows:
    """The loader of a module that draws its own batches: it yields 0, 1, 2, ... and resumes.

    Args:
        length: Windows in an epoch.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.index = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        while True:
            self.index += 1
            yield self.index - 1

    def state_dict(self) -> dict[str, int]:
        """The position, for the checkpoint."""
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the last window of the checkpoint."""
        self.index = state["index"]


def _stack(steps: Sequence[Tensor]) -> Tensor:
    # One step, the usual case, needs no copy.
    return steps[0][:, None] if len(steps) == 1 else torch.stack(list(steps), dim=1)


def num_participants(pool_size: int, fraction: float) -> int:
    """How many of the workers take part in a round: ``round(fraction * pool_size)``, at least one."""
    return max(1, round(fraction * pool_size))


def participants(pool_size: int, fraction: float, seed: int, index: int) -> tuple[int, ...]:
    """The workers of round ``index``, ascending: :func:`num_participants` of them."""
    if fraction == 1:
        return tuple(range(pool_size))
    size = num_participants(pool_size, fraction)
    drawn = seeding.generator(seed, "participation", step=index).choice(pool_size, size, replace=False)
    return tuple(sorted(drawn.tolist()))


def block(workers: tuple[int, ...], rank: int, world_size: int) -> tuple[int, ...]:
    """The ``rank``-th of ``world_size`` contiguous blocks of ``ceil(M / world_size)`` workers; the last are shorter."""
    size = -(-len(workers) // world_size)
    return workers[rank * size : (rank + 1) * size]
