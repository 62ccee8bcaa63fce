"""Parameters of a module <-> one vector of d coordinates, in ``named_parameters()`` order."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


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


def call(module: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor) -> Any:
    """``module(inputs)`` with other values of parameters, by the names of :func:`trainable`.

    A block or a parameter that stands in several places has the same value in all. ``functional_call`` alone would leave the values in a block that does.
    """
    values = {id(p): parameters[name] for name, p in module.named_parameters() if name in parameters}
    places = {
        f"{path}.{name}" if path else name: values[id(p)]
        for path, part in module.named_modules()
        for name, p in part._parameters.items()
        if id(p) in values
    }
    return functional_call(module, places, (inputs,), tie_weights=False)
