"""From the meta-gradients of several tasks to one step of the aggregator's weights."""

import torch
from torch import Tensor

from lightning_agg.precision import full_precision


def mean_over_tasks(gradients: list[Tensor], largest_norm: float | None) -> list[Tensor]:
    """Mean of each ``(T, *shape)`` over its T tasks; a task whose gradient, or its norm, is not finite counts 0.

    Args:
        gradients: For each parameter, of each task.
        largest_norm: The gradient of a task, over all parameters, is first scaled down to this norm; not if ``None``.

    Example:
        >>> mean_over_tasks([torch.tensor([[3.0, 4.0], [0.5, 0.0], [torch.inf, 0.0]])], largest_norm=1.0)
        [tensor([0.3667, 0.2667])]
    """
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = torch.ones_like(norms) if largest_norm is None else (largest_norm / norms).clamp(max=1)
    factors = torch.where(norms.isfinite(), factors, 0) / len(norms)
    with full_precision(norms):
        return [torch.tensordot(factors, g.nan_to_num(0.0, 0.0, 0.0), dims=1) for g in gradients]
