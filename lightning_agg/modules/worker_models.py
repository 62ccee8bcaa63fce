"""Workers whose models are not the global one, but contain it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_agg import flat
from lightning_agg.data.pool import RoundBatch
from lightning_agg.errors import SettingError, require
from lightning_agg.gradients import worker_gradients


class WorkerModels(nn.Module):
    """The models of the workers, of which worker i has the i-th, over and over.

    In each round a worker puts the global parameters into its own model, as the leading part of the corresponding tensors, computes
    the gradient there and sends this part of it. What is left of its parameters is its own: it descends it by itself.

    Args:
        models: One or more, each of which contains ``target``: :func:`shared_positions`.
        target: The global model.
        pool_size: Number M of workers.
        lr: Step size of the workers' own descent.

    Raises:
        SettingError: If a model does not contain the global one.
    """

    own: Tensor
    """``(M, e)``: each worker's own parameters, with zeros where others have more."""

    def __init__(self, models: Sequence[nn.Module], target: nn.Module, pool_size: int, lr: float) -> None:
        super().__init__()
        self.models = tuple(models)  # not registered: only their architecture counts
        self.lr = lr
        self._shared, self._left = [], []
        for model in models:
            parameters = flat.trainable(model)
            shared = shared_positions(flat.trainable(target), parameters)
            left = torch.ones(sum(p.numel() for p in parameters.values()), dtype=torch.bool)
            left[shared] = False
            self._shared.append(shared)
            self._left.append(left.nonzero()[:, 0])
        most = max(map(len, self._left))
        begin = [
            nn.functional.pad(flat.flatten(flat.trainable(model))[left], (0, most - len(left)))
            for model, left in zip(models, self._left, strict=True)
        ]
        self.register_buffer("own", torch.stack([begin[i % len(begin)] for i in range(pool_size)]))

    def gradients(
        self, parameters: Tensor, batch: RoundBatch, chunk_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """At global parameters ``(d,)``, of this process's workers: gradients ``(m, d + e)``, the own parts last, and losses ``(m,)``."""
        rows = parameters.new_zeros(len(batch.local), len(parameters) + self.own.shape[1])
        losses = parameters.new_zeros(len(batch.local))
        of_kind = defaultdict(list)
        for row, worker in enumerate(batch.local):
            of_kind[worker % len(self.models)].append(row)
        for kind, at in of_kind.items():
            model, shared, left = self.models[kind], self._shared[kind], self._left[kind]
            vectors = parameters.new_empty(len(at), len(shared) + len(left))
            vectors[:, shared] = parameters
            vectors[:, left] = self.own[[batch.local[row] for row in at], : len(left)]
            found, losses[at] = worker_gradients(
                model,
                batch.inputs[at, 0],
                batch.targets[at, 0],
                parameters=flat.unflatten(vectors, flat.trainable(model)),
                weights=None if batch.weights is None else batch.weights[at, 0],
                chunk_size=chunk_size,
            )
            rows[at] = torch.cat([found[:, shared], _widened(found[:, left], self.own.shape[1])], dim=1)
        return rows, losses

    def descend(self, rows: Tensor, workers: Sequence[int]) -> Tensor:
        """Let ``workers`` descend their own parts of ``(M, d + e)``; the rest is what they send, ``(M, d)``."""
        width = rows.shape[1] - self.own.shape[1]
        sent, own = rows[:, :width], rows[:, width:]
        finite = own.isfinite().all(dim=1, keepdim=True)
        self.own[list(workers)] -= torch.where(finite, self.lr * own, 0.0)
        return sent.contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "WorkerModels":
        for model in self.models:  # they follow the global model to its precision and device
            model._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def shared_positions(target: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Tensor:
    """Where each of the d parameters of ``target`` is among those of a ``model`` that contains it, ``(d,)``.

    Its last layer is the model's last, the others are the model's first; each tensor is the leading part of its counterpart, as in
    HeteroFL (Diao, Ding, Tarokh, ICLR 2021, section 3).

    Raises:
        SettingError: If there is no such layer, or it is smaller.

    Example:
        >>> small = {"0.weight": torch.zeros(1, 2), "1.weight": torch.zeros(2, 1)}
        >>> large = {"0.weight": torch.zeros(2, 2), "1.weight": torch.zeros(2, 2), "2.weight": torch.zeros(2, 2)}
        >>> shared_positions(small, large)
        tensor([ 0,  1,  8, 10])
    """
    ours, theirs = _layers(target), _layers(model)
    require(
        len(theirs) >= len(ours),
        "model.worker_models must have at least the layers of the global model, got"
        f" {len(theirs)} with parameters instead of {len(ours)}.",
    )
    counterparts = [*theirs[: len(ours) - 1], theirs[-1]]
    size = sum(p.numel() for p in model.values())
    positions = flat.unflatten(torch.arange(size), model)
    found = []
    for layer, counterpart in zip(ours, counterparts, strict=True):
        for kind, name in layer.items():
            shape, other = target[name].shape, counterpart.get(kind)
            at = None if other is None else positions[other]
            if (
                at is None
                or at.ndim != len(shape)
                or any(n < k for n, k in zip(at.shape, shape, strict=True))
            ):
                raise SettingError(
                    "model.worker_models must contain the global model, each tensor as the leading part of one of theirs:"
                    f" {name} of shape {tuple(shape)} is not in"
                    f" {'nothing' if at is None else f'{other} of shape {tuple(at.shape)}'}."
                )
            found.append(at[tuple(slice(k) for k in shape)].flatten())
    return torch.cat(found)


def _layers(parameters: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """Of each layer with parameters, their names by what they are there, such as ``weight`` and ``bias``."""
    layers: dict[str, dict[str, str]] = {}
    for name in parameters:
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = name
    return list(layers.values())


def _widened(rows: Tensor, width: int) -> Tensor:
    padded: Tensor = nn.functional.pad(rows, (0, width - rows.shape[1]))
    return padded
