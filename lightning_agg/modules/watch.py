"""Tells of a training that is not what it looks like."""

import pickle
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.attacks.base import Attack

COUNTS = frozenset(vars(nn.Module())) | {"num_nonfinite", "num_overflows"}
"""Attributes that are no state of a rule."""


class _Tensor(bytes):
    """Of a tensor."""


CARRIED = (
    Tensor,
    np.ndarray,
    int,
    float,
    list,
    deque,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
    torch.Generator,
)
"""What a rule may carry from round to round; a dict or a set may be a cache."""

LOOKED_AT = 3
"""How often it is seen of each whether it draws random numbers."""


class Watch:
    """Warns of what goes wrong without an error, once of each in a fit."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._before: dict[str, bytes] = {}
        self._looks: Counter[str] = Counter()

    def begin(self, aggregator: Aggregator, attacks: Iterable[Attack] = ()) -> None:
        """A fit begins."""
        self._told.clear()
        self._looks.clear()
        self._before = unsaved(aggregator, attacks)

    def round(self, aggregator: Aggregator, index: int, computed: Tensor, honest: Sequence[int]) -> None:
        """A round has been aggregated, in which the workers had ``computed`` ``(M, d)``; ``honest`` are rows of it."""
        if aggregator.num_nonfinite and honest and not bool(computed[honest].isfinite().all(dim=1).any()):
            self._tell(
                "diverged",
                f"No honest worker's gradient is finite in round {index}: the training has diverged, and the global model is of no"
                " use (a smaller model.optimizer.lr?).",
            )
        elif honest and aggregator.num_nonfinite == len(computed):
            self._tell(
                "dropped",
                f"No row that the server got in round {index} is finite, though honest workers computed finite gradients: no step is taken"
                " then (a smaller noise.scale?).",
            )
        if aggregator.num_overflows:
            self._tell(
                "overflow",
                f"{type(aggregator).__name__} gave no finite aggregate of finite rows in round {index}: no step is taken then.",
            )

    @contextmanager
    def draws(self, who: str) -> Iterator[None]:
        """Around what must not draw random numbers from a global generator."""
        if self._looks[who] >= LOOKED_AT:
            yield
            return
        self._looks[who] += 1
        before = _generators()
        yield
        if _generators() != before:
            self._tell(
                f"draws {who}",
                f"{who} draws from a global random generator, so that a resumed run is another one: draw from"
                " lightning_agg.seeding.generator(seed, purpose, worker, round).",
            )

    def checkpoint(self, aggregator: Aggregator, attacks: Iterable[Attack] = ()) -> None:
        """A checkpoint is written."""
        for name, value in unsaved(aggregator, attacks).items():
            before = self._before.get(name)
            # A tensor may be new: it is nothing else that is made once, and then kept at hand.
            if before != value and (before is not None or isinstance(value, _Tensor)):
                self._tell(
                    name,
                    f"{name} changes from round to round and is in no checkpoint, so that a resumed run is another one: make it a"
                    " buffer that memory() names, see lightning_agg.aggregators.Aggregator; of an attack, a part of its state_dict().",
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


def unsaved(aggregator: Aggregator, attacks: Iterable[Attack] = ()) -> dict[str, bytes]:
    """What a rule and attacks carry that no checkpoint holds, by its name: numbers, lists, arrays, generators, and tensors that are no buffers.

    What a buffer is that ``memory()`` does not name is held, but it cannot be put back where its size has changed: so its shape is here.
    """
    # What a module says of itself by get_extra_state is in the checkpoints, its parts included.
    kept = {p for m in aggregator.modules() if _has_extra_state(m) for p in m.modules()}
    parts = [
        *(part for part in aggregator.modules() if part not in kept),
        *(attack for attack in attacks if type(attack).state_dict is Attack.state_dict),
    ]
    carried = {
        f"{type(part).__name__}.{name}": _as_bytes(value)
        for part in parts
        for name, value in vars(part).items()
        if isinstance(value, CARRIED) and name not in COUNTS
    }
    remembered = set(aggregator.memory())
    sizes = {
        f"The size of {type(aggregator).__name__}.{name}": str(tuple(buffer.shape)).encode()
        for name, buffer in aggregator.named_buffers()
        if name not in remembered
    }
    return carried | sizes


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, Tensor):
        return _Tensor(pickle.dumps((value.dtype, value.detach().cpu().flatten().view(torch.uint8).numpy())))
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):  # a list of functions, say, which are no state
        return b""
