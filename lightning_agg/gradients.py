"""Gradients of m workers at once, ``(m, d)``: what a round starts from.

On the CPU the workers are computed one by one, on purpose: there, ``vmap`` is no faster for a network with
convolutions, and the last bits of a worker's row depend on how many others share the call (a vectorised kernel
treats the end of a tensor differently from its middle). One by one, from memory aligned alike, row i is the same bits
in any company, so a pool spread over processes trains exactly as in one. On other devices, where launches cost more than arithmetic, all
workers go through one ``vmap``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from lightning_agg.dense import DenseChain, aligned
from lightning_agg.errors import require
from lightning_agg.flat import call, flatten, flatten_rows, trainable, unflatten
from lightning_agg.losses import Loss, cross_entropy, sample_losses


def worker_gradients(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    weights: Tensor | None = None,
    loss: Loss | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient and value of each worker's mean loss.

    Args:
        model: Any module that :func:`~lightning_agg.models.check_model` accepts.
        inputs: ``(m, B, ...)``.
        targets: ``(m, B)`` or ``(m, B, ...)``.
        parameters: Values of the trainable parameters, by name: of the shape of the model's own, or with a leading
            dimension m, one per worker. ``None``: the model's own.
        weights: ``(m, B)``, 1 for a sample and 0 for padding. A worker without samples has gradient and loss 0.
        loss: Maps outputs and targets of B samples to ``(B,)`` losses; ``None``: as the model says, see :mod:`lightning_agg.losses`.
        chunk_size: At most so many workers at once, to bound memory; ``None``: all. On the CPU it is always one; on
            other devices, too, one makes a row independent of its neighbours to the last bit.

    Returns:
        Gradients ``(m, d)`` in the order of :func:`~lightning_agg.flat.trainable`, and losses ``(m,)``.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> gradients, losses = worker_gradients(model, torch.zeros(5, 4, 3), torch.zeros(5, 4, dtype=torch.long))
        >>> gradients.shape, losses.shape
        (torch.Size([5, 8]), torch.Size([5]))
    """
    loss = loss or sample_losses(model)
    own = trainable(model)
    require(
        len(own) > 0, f"model must have parameters that require gradients, {type(model).__name__} has none."
    )
    coefficients = _coefficients(inputs, weights, next(iter(own.values())).dtype)
    if len(inputs) == 0:
        return coefficients.new_empty(0, sum(p.numel() for p in own.values())), coefficients.new_empty(0)
    with torch.enable_grad():
        if inputs.device.type != "cpu" and chunk_size != 1:
            return _vectorized(model, inputs, targets, parameters, coefficients, loss, chunk_size)
        chain = DenseChain.of(model) if loss is cross_entropy and targets.ndim == 2 else None
        if chain is None or torch.is_autocast_enabled(inputs.device.type):
            gradients, losses = _one_by_one(model, inputs, targets, parameters, coefficients, loss)
        else:
            each = _of_each_worker(own if parameters is None else parameters, own, len(inputs))
            gradients, losses = chain.gradients(inputs, targets, coefficients, loss, each)
    # Not one sum of a matrix: how a reduction is split over threads depends on the number of rows.
    return gradients, torch.stack([row.sum() for row in losses * coefficients])


def local_update(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lr: float,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    weights: Tensor | None = None,
    loss: Loss | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What each worker sends after L local SGD steps: the sum of the gradients on its way, (θ - θ_L) / lr.

    For L = 1 that is its gradient. Averaging it and descending by ``lr`` is federated averaging: McMahan et al.,
    `Communication-Efficient Learning of Deep Networks from Decentralized Data
    <https://arxiv.org/abs/1602.05629>`_, AISTATS 2017.

    Args:
        model: As for :func:`worker_gradients`, and so are the other arguments that are not listed here.
        inputs: ``(m, L, B, ...)``, a batch for each step.
        targets: ``(m, L, B)`` or ``(m, L, B, ...)``.
        lr: Step size of the local steps.
        parameters: Where the workers start.
        weights: ``(m, L, B)``.
        loss: Maps outputs and targets of B samples to ``(B,)`` losses.
        chunk_size: At most so many workers at once.

    Returns:
        Updates ``(m, d)``, and losses ``(m,)`` of the first step.
    """
    own = trainable(model)

    def gradients_at(step: int, parameters: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        present = None if weights is None else weights[:, step]
        batch = (inputs[:, step], targets[:, step])
        return worker_gradients(
            model, *batch, parameters=parameters, weights=present, loss=loss, chunk_size=chunk_size
        )

    update, losses = gradients_at(0, parameters)
    start = _flat(own if parameters is None else parameters, own)
    for step in range(1, inputs.shape[1]):
        gradients, _ = gradients_at(step, unflatten(start - lr * update, own))
        update = update + gradients
    return update, losses


def _one_by_one(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    parameters: Mapping[str, Tensor] | None,
    coefficients: Tensor,
    loss: Loss,
) -> tuple[Tensor, Tensor]:
    own = trainable(model)
    gradients = coefficients.new_empty(len(inputs), sum(p.numel() for p in own.values()))
    losses = torch.empty_like(coefficients)
    each = None if parameters is None else _of_each_worker(parameters, own, len(inputs))
    for worker, x in enumerate(map(aligned, inputs)):
        leaves: Mapping[str, Tensor] = own
        if each is not None:
            leaves = {name: each[worker][name].detach().requires_grad_() for name in own}
        outputs = model(x) if each is None else call(model, leaves, x)
        values = _checked(loss(outputs, targets[worker]), inputs.shape[1])
        parts = torch.autograd.grad(
            values, list(leaves.values()), coefficients[worker].to(values.dtype), materialize_grads=True
        )
        torch.cat([part.flatten() for part in parts], out=gradients[worker])
        losses[worker] = values.detach()
    return gradients, losses


def _vectorized(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    parameters: Mapping[str, Tensor] | None,
    coefficients: Tensor,
    loss: Loss,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    own = trainable(model)
    source = own if parameters is None else parameters
    values = {name: source[name].detach() for name in own}

    def mean_loss(p: dict[str, Tensor], x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return (_checked(loss(call(model, p, x), y), len(x)) * c).sum()

    dims = (0 if _per_worker(values, own) else None, 0, 0, 0)
    gradients, losses = vmap(grad_and_value(mean_loss), dims, chunk_size=chunk_size)(
        values, inputs, targets, coefficients
    )
    return flatten_rows(gradients), losses


def _coefficients(inputs: Tensor, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``(m, B)``: what a sample counts in its worker's mean."""
    if weights is None:
        return torch.full(inputs.shape[:2], 1 / inputs.shape[1], dtype=dtype, device=inputs.device)
    weights = weights.to(dtype)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1)


def _per_worker(parameters: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return any(parameters[name].ndim > p.ndim for name, p in own.items())


def _of_each_worker(
    parameters: Mapping[str, Tensor], own: Mapping[str, Tensor], size: int
) -> list[Mapping[str, Tensor]]:
    if not _per_worker(parameters, own):
        return [{name: aligned(p) for name, p in parameters.items()}] * size
    return [{name: aligned(p[worker]) for name, p in parameters.items()} for worker in range(size)]


def _flat(parameters: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
    ordered = {name: parameters[name].detach() for name in own}
    return flatten_rows(ordered) if _per_worker(ordered, own) else flatten(ordered)


def _checked(losses: Tensor, size: int) -> Tensor:
    require(
        losses.shape == (size,),
        f"loss must return one value for each of the {size} samples, got shape {tuple(losses.shape)}.",
    )
    return losses
