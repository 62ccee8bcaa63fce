"""Rules of other libraries."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.errors import SettingError, require


class External(Aggregator):
    """A rule of another library, such as ByzFL or TorchJD, or any other function of the matrix.

    In YAML::

        model:
          aggregator:
            class_path: External
            init_args:
              rule:
                class_path: byzfl.Krum
                init_args: {f: 3}

    The rule is called with a copy of the finite rows, ``(M, d)``, and must return a tensor ``(d,)``. A row that is
    not finite is dropped before, and the rule not told: of 10 workers it may see 7. Theirs is the check of the pool,
    in the first round. What it keeps from round to round in tensors is part of a checkpoint, but for
    buffers that a module makes in its first round only; randomness from a global generator is not.

    Cost: that of the rule, and one copy of the rows.

    Breakdown: unknown.

    Reference:
        González et al., `ByzFL: Research Framework for Robust Federated Learning
        <https://arxiv.org/abs/2505.24802>`_, 2025; Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
        <https://arxiv.org/abs/2406.16232>`_, 2024 (TorchJD). :mod:`lightning_agg.interop` is the other way round.

    Args:
        rule: Function of the matrix, or a class of objects that are one, with its arguments.
        cast: Whether a result of another floating type is converted to that of the rows, which is else refused. ByzFL
            computes in float32 whatever it is given.

    Raises:
        SettingError: If ``rule`` is no function; in the call, if it fails, or returns something else than ``(d,)``.

    Example:
        >>> External(lambda rows: rows.amax(dim=0))(torch.tensor([[1.0, 4.0], [3.0, 2.0]]))
        tensor([3., 4.])
    """

    hides_memory = True

    def __init__(self, rule: Callable[..., Any], cast: bool = False) -> None:
        super().__init__()
        require(callable(rule), f"External.rule must be a function of the matrix, got {rule!r}.")
        self.rule = rule
        self.cast = cast
        self._first = partial(copy.deepcopy, copy.deepcopy(rule))

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """What the rule returns, checked and copied."""
        seen = f"{self._name} on {len(gradients)} rows ({context.num_dropped} not finite, dropped)"
        if isinstance(self.rule, nn.Module):
            self.rule.to(gradients.device)  # a fresh one, after reset, is where it was given
        try:
            aggregate = self.rule(gradients.clone())
        except Exception as error:
            raise SettingError(f"External.rule: {seen} failed: {type(error).__name__}: {error}") from error
        shape = tuple(gradients.shape[1:])
        is_vector = isinstance(aggregate, Tensor) and aggregate.shape == shape
        found = tuple(aggregate.shape) if isinstance(aggregate, Tensor) else repr(aggregate)
        require(is_vector, f"External.rule: {seen} must return a tensor of shape {shape}, got {found}.")
        dtype = aggregate.dtype
        require(
            dtype == gradients.dtype or (self.cast and dtype.is_floating_point),
            f"External.rule: {seen} must return {gradients.dtype}, got {dtype} (External.cast = {self.cast}).",
        )
        return torch.empty_like(gradients[0]).copy_(aggregate)

    def reset(self) -> None:
        """Take the rule as it was given."""
        self.rule = self._first()

    def get_extra_state(self) -> dict[str, Tensor]:
        """The tensors that the rule keeps; those of a module are in the state dict as it is."""
        return {name: value for name, value in _attributes(self.rule).items() if isinstance(value, Tensor)}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Give the rule back its tensors."""
        for name, value in state.items():
            setattr(_owner(self.rule), name, value)

    @property
    def _name(self) -> str:
        return getattr(self.rule, "__qualname__", type(self.rule).__qualname__)


def _owner(rule: object) -> object:
    """What keeps the rule's attributes: of a method its object."""
    return getattr(rule, "__self__", rule)


def _attributes(rule: object) -> dict[str, Any]:
    return {} if isinstance(rule, nn.Module) else getattr(_owner(rule), "__dict__", {})
