"""Parameters of a module <-> one vector of d coordinates, in ``named_parameters()`` order."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes: those with ``requires_grad``."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """Tensors of any shapes -> ``(d,)``."""
    return torch.cat([p.detach().reshape(-1) for p in parameters.values()])


def flatten_rows(parameters: Mapping[str, Tensor]) -> Tensor:
    """Tensors with a leading worker dimension ``(m, ...)`` -> ``(m, d)``."""
    return torch.cat([p.flatten(1) for p in parameters.values()], dim=1)


def set_gradients(parameters: Mapping[str, Tensor], vector: Tensor) -> None:
    """``(d,)`` -> ``.grad`` of each parameter, as views of a copy: SGD with Nesterov momentum may write into them."""
    for p, gradient in zip(parameters.values(), unflatten(vector.clone(), parameters).values(), strict=True):
        p.grad = gradient


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``(..., d)`` -> views shaped as the tensors of ``like``, leading dimensions kept."""
    sizes = [p.numel() for p in like.values()]
    parts = torch.split(vector, sizes, dim=-1)
    return {
        name: part.view(*vector.shape[:-1], *p.shape)
        for (name, p), part in zip(like.items(), parts, strict=True)
    }
