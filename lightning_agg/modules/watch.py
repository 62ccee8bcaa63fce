"""Tells of a training that is not what it looks like."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator

LOOKED_AT = 3
"""Rounds in which it is seen who draws random numbers."""


class Watch:
    """Warns of what goes wrong without an error, once of each in a fit."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._before: dict[str, Tensor] = {}
        self._rounds = 0

    def begin(self, aggregator: Aggregator) -> None:
        """A fit begins."""
        self._told.clear()
        self._rounds = 0
        self._before = unsaved(aggregator)

    def round(self, aggregator: Aggregator, index: int, computed: Tensor, honest: Sequence[int]) -> None:
        """A round has been aggregated, in which the workers had ``computed`` ``(M, d)``; ``honest`` are rows of it."""
        self._rounds += 1
        if aggregator.num_nonfinite and honest and not bool(computed[honest].isfinite().all(dim=1).any()):
            self._tell(
                "diverged",
                f"No honest worker's gradient is finite in round {index}: the training has diverged, and the global model is of no"
                " use (a smaller model.optimizer.lr?).",
            )
        if aggregator.num_overflows:
            self._tell(
                "overflow",
                f"{type(aggregator).__name__} gave no finite aggregate of finite rows in round {index}: no step is taken then.",
            )

    @contextmanager
    def draws(self, who: str) -> Iterator[None]:
        """Around what must not draw random numbers from a global generator."""
        if self._rounds >= LOOKED_AT:
            yield
            return
        before = _generators()
        yield
        if _generators() != before:
            self._tell(
                f"draws {who}",
                f"{who} draws from a global random generator, so that a resumed run is another one: draw from"
                " lightning_agg.seeding.generator(seed, purpose, worker, round).",
            )

    def checkpoint(self, aggregator: Aggregator) -> None:
        """A checkpoint is written."""
        for name, tensor in unsaved(aggregator).items():
            before = self._before.get(name)
            if before is None or before.shape != tensor.shape or not torch.equal(before, tensor):
                self._tell(
                    name,
                    f"{name} changes from round to round and is in no checkpoint, so that a resumed run is another one: make it a"
                    " buffer that memory() names, see lightning_agg.aggregators.Aggregator.",
                )

    def _tell(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            rank_zero_warn(message)


def _generators() -> tuple[object, ...]:
    """Where the global generators stand."""
    of_numpy: Any = np.random.get_state(legacy=False)["state"]
    return (
        torch.get_rng_state().numpy().tobytes(),
        of_numpy["key"].tobytes(),
        of_numpy["pos"],
        random.getstate(),
    )


def unsaved(aggregator: Aggregator) -> dict[str, Tensor]:
    """Copies of the tensors of a rule that are neither its parameters nor its buffers, by their names."""
    return {
        f"{type(part).__name__}.{name}": value.clone()
        for part in aggregator.modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }
