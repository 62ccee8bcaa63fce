"""What settings make: models, optimizers and schedules, each checked as it is made."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_agg.errors import SettingError, require
from lightning_agg.flat import trainable
from lightning_agg.models.checks import check_model

ModelFactory = Callable[[int], nn.Module]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerFactory = Callable[[Optimizer], LRScheduler]


def of_classes(make: ModelFactory, num_classes: int) -> nn.Module:
    """The model for so many classes: their number is the parameter ``num_classes``, or else the first one.

    Example:
        >>> def headed(width: int = 8, num_classes: int = 1000) -> nn.Module:
        ...     return nn.Linear(width, num_classes)
        >>> of_classes(headed, 10)
        Linear(in_features=8, out_features=10, bias=True)
        >>> of_classes(lambda classes: nn.Linear(8, classes), 10)
        Linear(in_features=8, out_features=10, bias=True)
    """
    parameters = inspect.signature(make).parameters
    # The command line's factories tell of no parameters, but hold the values of all that are not the first.
    named = "num_classes" in {*parameters, *getattr(make, "keywords", ())}
    # torchvision's functions hand keywords on.
    named |= bool(parameters) and all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters.values())
    return make(num_classes=num_classes) if named else make(num_classes)  # type: ignore[call-arg]


def made_model(make: ModelFactory, num_classes: int, sample: Tensor, setting: str) -> nn.Module:
    """The model that a setting asks for, tried on the batch ``sample``.

    Raises:
        SettingError: If it cannot be made, is none that a pool can train, or does not fit the sample or the classes.
    """
    try:
        model = of_classes(make, num_classes)
    except SettingError:
        raise
    except Exception as error:  # whatever a class makes of an argument that it did not expect
        raise SettingError(
            f"{setting} must be a class of models whose parameter num_classes, or else the first one, is the number of classes, and"
            f" accept {num_classes}: {type(error).__name__}: {error}"
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
    expected = (len(sample), num_classes)
    inputs = "one input" if len(sample) == 1 else f"{len(sample)} inputs"
    require(
        shape == expected,
        f"{setting} must give one output per class, shape {expected} for {inputs}; {name} gives {shape}.",
    )
    require(
        bool(trainable(model)),
        f"{setting} must have a parameter to train; of {name} none requires a gradient.",
    )
    require(
        output.requires_grad,
        f"{setting} must give an output with a gradient; that of {name} depends on none of its parameters (detach, no_grad?).",
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


def made_optimizer(make: OptimizerFactory, parameters: Iterable[nn.Parameter], setting: str) -> Optimizer:
    """The optimizer that a setting asks for.

    Raises:
        SettingError: If it makes none, does not accept its values, or cannot descend by a gradient that it is given.
    """
    require(
        callable(make),
        f"{setting} must make an optimizer of the parameters, as functools.partial(SGD, lr=0.1) does, got one that is made:"
        f" {type(make).__name__}.",
    )
    try:
        optimizer = make(parameters)
    except (ValueError, TypeError) as error:
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
    except (ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise SettingError(f"{setting} must be given values that it accepts: {error}.") from error
