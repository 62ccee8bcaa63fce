"""What settings make: models, optimizers and schedules, each checked as it is made."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_agg.errors import SettingError, require
from lightning_agg.models.checks import check_model

ModelFactory = Callable[[int], nn.Module]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerFactory = Callable[[Optimizer], LRScheduler]


def made_model(make: ModelFactory, num_classes: int, sample: Tensor, setting: str) -> nn.Module:
    """The model that a setting asks for, tried on ``sample``, a batch of one.

    Raises:
        SettingError: If it cannot be made, is none that a pool can train, or does not fit the sample or the classes.
    """
    factory: Callable[..., nn.Module] = make
    try:
        model = factory(num_classes=num_classes) if _names_classes(make) else factory(num_classes)
    except SettingError:
        raise
    except Exception as error:  # whatever a class makes of an argument that it did not expect
        raise SettingError(
            f"{setting} must be a class of models with a parameter num_classes, or whose first one is that number, and accept"
            f" {num_classes}: {type(error).__name__}: {error}"
        ) from error
    check_model(model, setting)
    name = type(model).__name__
    try:
        output = model(sample)
        state, buffers = torch.get_rng_state(), {key: value.clone() for key, value in model.named_buffers()}
        model(sample)  # a second time: the first one may have initialised lazy layers
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise SettingError(
            f"{setting} must accept inputs of shape {tuple(sample.shape[1:])}, {sample.dtype}; {name} does not: {error}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    require(
        shape == (1, num_classes),
        f"{setting} must give one output per class, shape (1, {num_classes}) for one input; {name} gives {shape}.",
    )
    require(
        torch.equal(state, torch.get_rng_state()),
        f"{setting} must not draw random numbers; {name} does in its forward pass (dropout?), from the global generator, so a"
        " run could be neither resumed nor spread over processes exactly.",
    )
    changed = [
        key
        for key, value in model.named_buffers()
        if key not in buffers or not torch.equal(buffers[key], value)
    ]
    require(
        not changed,
        f"{setting} must not change its buffers in a forward pass; {name} changes {', '.join(changed)}: what workers keep there is"
        " never aggregated, so one process and several would train other models.",
    )
    return model


def _names_classes(make: ModelFactory) -> bool:
    """Whether it has a parameter ``num_classes``; behind a setting, its class is among what jsonargparse calls it by."""
    maker = next(filter(inspect.isclass, getattr(make, "args", ())), make)
    return "num_classes" in inspect.signature(maker).parameters


def made_optimizer(make: OptimizerFactory, parameters: Iterable[nn.Parameter], setting: str) -> Optimizer:
    """The optimizer that a setting asks for.

    Raises:
        SettingError: If it does not accept its values, or cannot descend by a gradient that it is given.
    """
    try:
        optimizer = make(parameters)
    except ValueError as error:
        raise SettingError(f"{setting} must be given values that it accepts: {error}.") from error
    require(
        not isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam),
        f"{setting} must take dense gradients and no closure, as a round evaluates the gradients once, got"
        f" {type(optimizer).__name__}.",
    )
    return optimizer


@contextmanager
def told_of_the_schedule(setting: str) -> Iterator[None]:
    """Name ``setting`` in what a schedule of torch raises, at once or in a later step."""
    try:
        yield
    except (ValueError, ZeroDivisionError) as error:
        raise SettingError(f"{setting} must be given values that it accepts: {error}.") from error
