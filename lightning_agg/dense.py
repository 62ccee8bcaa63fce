"""Backpropagation through a plain fully connected network, written out.

For networks this small autograd's bookkeeping costs more than the arithmetic: without it the gradients of ten
workers of the 784-20-10 network take 1.6 ms of CPU instead of 2.6. The kernels and their shapes are those of
autograd, worker by worker, and so are the results, to the bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_agg.flat import trainable

aten = torch.ops.aten

ALIGNMENT = 64  # bytes, of torch's CPU allocator

# Cotangent of an activation's output, and that output -> cotangent of its input.
DERIVATIVES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Sigmoid: aten.sigmoid_backward,
    nn.Tanh: aten.tanh_backward,
    nn.ReLU: lambda cotangent, output: aten.threshold_backward(cotangent, output, 0),
}


@dataclass(frozen=True)
class DenseChain:
    """A ``nn.Sequential`` of ``Flatten``, ``Linear`` and elementwise activations.

    Args:
        layers: The layers, by their name in the model.
        parameters: All parameters, by their name in the model.
    """

    layers: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> "DenseChain | None":
        """``model`` as a chain; ``None`` if it is anything else, has hooks, or frozen, shared or non-linear weights."""
        if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
            return None
        layers, parameters = dict(model.named_children()), trainable(model)
        names = [f"{name}.{own}" for name, layer in layers.items() for own, _ in layer.named_parameters()]
        known = all(type(layer) in (nn.Flatten, nn.Linear, *DERIVATIVES) for layer in layers.values())
        whole = len(layers) == len(model) and names == list(parameters) != []
        hooked = any(map(_has_hooks, [model, *layers.values()]))
        return cls(layers, parameters) if known and whole and not hooked else None

    def gradients(
        self,
        inputs: Tensor,
        targets: Tensor,
        coefficients: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        parameters: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Gradients ``(m, d)`` and values ``(m, B)`` of the losses, weighted by ``coefficients`` ``(m, B)``.

        ``loss`` sees the samples of all workers in one call; ``parameters`` are one mapping for each worker.
        """
        with torch.no_grad():
            traces = [self._forward(aligned(x), p) for x, p in zip(inputs, parameters, strict=True)]
            outputs = torch.stack([trace[-1] for trace in traces])
        losses = loss(outputs.requires_grad_().flatten(0, 1), targets.flatten()).view(targets.shape)
        (cotangents,) = torch.autograd.grad(losses, outputs, coefficients)
        gradients = outputs.new_empty(len(inputs), sum(p.numel() for p in self.parameters.values()))
        with torch.no_grad():
            for row, trace, p, cotangent in zip(gradients, traces, parameters, cotangents, strict=True):
                torch.cat([part.flatten() for part in self._backward(trace, p, aligned(cotangent))], out=row)
        return gradients, losses.detach()

    def _forward(self, x: Tensor, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        trace = [x]
        for name, layer in self.layers.items():
            if isinstance(layer, nn.Linear):
                x = F.linear(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))
            else:
                x = layer(x)
            trace.append(x)
        return trace

    def _backward(
        self, trace: list[Tensor], parameters: Mapping[str, Tensor], cotangent: Tensor
    ) -> list[Tensor]:
        parts: list[Tensor] = []
        steps = zip(self.layers.items(), trace[:-1], trace[1:], strict=True)
        for (name, layer), before, after in reversed(list(steps)):
            if isinstance(layer, nn.Linear):
                by_output = cotangent.flatten(0, -2)
                bias = [] if layer.bias is None else [by_output.sum(0)]
                parts = [by_output.t() @ before.flatten(0, -2), *bias, *parts]
                if len(parts) == len(self.parameters):
                    break
                cotangent = cotangent @ parameters[f"{name}.weight"]
            elif isinstance(layer, nn.Flatten):
                cotangent = cotangent.view_as(before)
            else:
                cotangent = DERIVATIVES[type(layer)](cotangent, after)
        return parts


def aligned(tensor: Tensor) -> Tensor:
    """``tensor`` itself if it starts where a fresh allocation would, else a copy that does.

    MKL chooses its kernel by the alignment too, so what a worker gets must not depend on where its slice lies.
    """
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _has_hooks(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return any(map(bool, hooks))
