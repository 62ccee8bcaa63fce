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

PEERS = "byzfl", "torchjd"
"""Packages whose rules it is tested with."""


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
    in the first round. What it has changed in itself since it was made is part of a checkpoint: its attributes, and those and the
    buffers of a module and of its parts, as far as they are tensors, numbers, texts, or tuples, lists and dicts of these. Objects of
    other kinds, such as NumPy's arrays, and randomness from a global generator are not.

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

    rule: Callable[..., Any]

    def __init__(self, rule: Callable[..., Any], cast: bool = False) -> None:
        super().__init__()
        require(callable(rule), f"External.rule must be a function of the matrix, got {rule!r}.")
        self.cast = cast
        self._first = partial(copy.deepcopy, copy.deepcopy(rule))
        self._take(rule)

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """What the rule returns, checked and copied."""
        seen = f"{self._name} on {len(gradients)} rows ({context.num_dropped} not finite, dropped)"
        if isinstance(self.rule, nn.Module):
            self.rule.to(gradients.device)  # a fresh one, after reset, is where it was given
        try:
            aggregate = self.rule(gradients.clone())
        except Exception as error:
            told = " ".join(str(error).split())
            raise SettingError(f"External.rule: {seen} failed: {type(error).__name__}: {told}") from error
        shape = tuple(gradients.shape[1:])
        is_vector = isinstance(aggregate, Tensor) and aggregate.shape == shape
        found = tuple(aggregate.shape) if isinstance(aggregate, Tensor) else type(aggregate).__name__
        require(is_vector, f"External.rule: {seen} must return a tensor of shape {shape}, got {found}.")
        dtype = aggregate.dtype
        require(
            dtype == gradients.dtype or (self.cast and dtype.is_floating_point),
            f"External.rule: {seen} must return {gradients.dtype}, got {dtype} (External.cast = {self.cast}).",
        )
        return torch.empty_like(gradients[0]).copy_(aggregate)

    def reset(self) -> None:
        """Take the rule as it was given."""
        self._take(self._first())

    def get_extra_state(self) -> dict[str, Any]:
        """What the rule has changed in itself since it was made, by its name."""
        first = _attributes(self._first())
        return {
            name: value
            for name, value in _attributes(self.rule).items()
            if _is_plain(value) and not (name in first and _same(value, first[name]))
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Give the rule back what it had changed."""
        self.reset()
        for name, value in state.items():
            part, _, leaf = name.rpartition(".")
            setattr(_parts(self.rule)[part], leaf, copy.deepcopy(value))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "External":
        if isinstance(self.rule, nn.Module):
            self.rule._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _take(self, rule: Callable[..., Any]) -> None:
        # Past nn.Module, or the state dict would have the buffers that a module has now, and a fresh one may have none of them.
        object.__setattr__(self, "rule", rule)

    @property
    def _name(self) -> str:
        return getattr(self.rule, "__qualname__", type(self.rule).__qualname__)


def _parts(rule: object) -> dict[str, object]:
    """What keeps the rule's attributes, by its name: the parts of a module, and of a method its object."""
    return (
        dict(rule.named_modules()) if isinstance(rule, nn.Module) else {"": getattr(rule, "__self__", rule)}
    )


def _attributes(rule: object) -> dict[str, Any]:
    """The attributes of all parts, without what every module has."""
    usual = vars(nn.Module())
    return {
        f"{part}.{name}" if part else name: value
        for part, owner in _parts(rule).items()
        for name, value in {**getattr(owner, "__dict__", {}), **getattr(owner, "_buffers", {})}.items()
        if name not in usual
    }


def _is_plain(value: object) -> bool:
    """Whether a checkpoint can hold it."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, [*value.keys(), *value.values()]))
    return value is None or isinstance(value, Tensor | bool | int | float | str | torch.dtype | torch.device)


def _same(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if isinstance(value, Tensor):
        return (value.dtype, value.device) == (other.dtype, other.device) and torch.equal(value, other)
    if isinstance(value, tuple | list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    return bool(value == other)
