"""A labelled data set held as one tensor, normalised when it is read."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lightning_agg.errors import require

KINDS = (torch.uint8, torch.float32, torch.int64)
"""What inputs may be."""


@dataclass(frozen=True)
class Samples:
    """Inputs with labels, on one device.

    Args:
        inputs: Images ``(N, C, H, W)`` in uint8, which are read as float32 in [0, 1]; or any ``(N, C, ...)`` in float32, features or
            channels first, or in int64, indices of words for example, which are read as they are.
        labels: Class of each, ``(N,)`` int64.
        groups: Whom each comes from, ``(N,)`` int64, for :class:`~lightning_agg.partitioners.ByGroup`.
        mean: Per channel, ``(C,)``, subtracted from what is read.
        std: Per channel, divided by after that.
    """

    inputs: Tensor
    labels: Tensor
    groups: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def are_images(self) -> bool:
        """Whether the inputs are images."""
        return self.inputs.dtype == torch.uint8

    def check(self, part: str, num_classes: int) -> None:
        """Check that these can be learned from.

        Args:
            part: What they are called.
            num_classes: How many classes are named.

        Raises:
            SettingError: If inputs, labels or groups are not as above, not finite or none, or there are labels without a name.
        """
        inputs, labels = self.inputs, self.labels
        require(
            inputs.dtype in KINDS and (inputs.ndim == 4 if self.are_images else inputs.ndim >= 2),
            f"the {part} inputs of a data set must be images, uint8 of shape (N, C, H, W), or float32 or int64 of shape (N, C, ...),"
            f" got {inputs.dtype} of shape {tuple(inputs.shape)}.",
        )
        num_finite = int(inputs.isfinite().sum()) if inputs.is_floating_point() else inputs.numel()
        require(
            num_finite == inputs.numel(),
            f"the {part} inputs of a data set must be finite; {inputs.numel() - num_finite} numbers are not.",
        )
        for name, values in (("labels", labels), ("groups", labels if self.groups is None else self.groups)):
            require(
                values.dtype == torch.int64 and values.shape == inputs.shape[:1],
                f"the {part} {name} of a data set must be int64, one for each of the {len(inputs)} inputs, got {values.dtype} of"
                f" shape {tuple(values.shape)}.",
            )
        require(len(labels) > 0, f"the {part} inputs of a data set must be at least one, got 0.")
        require(
            int(labels.min()) >= 0 and int(labels.max()) < num_classes,
            f"the {part} labels of a data set must be 0 to {num_classes - 1}, as it names {num_classes} classes, got"
            f" {torch.unique(labels).tolist()}.",
        )

    def take(self, indices: np.ndarray) -> "Samples":
        """The samples at ``indices`` as a set of their own."""
        rows = torch.from_numpy(indices).to(self.labels.device)
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows], groups=groups)

    def to(self, device: torch.device) -> "Samples":
        """The same set on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ``(*indices.shape, C, ...)``, float32 or int64, and labels ``(*indices.shape,)``."""
        flat = indices.flatten()
        inputs = self._normalized(self.inputs.index_select(0, flat))
        labels = self.labels.index_select(0, flat)
        return inputs.view(*indices.shape, *inputs.shape[1:]), labels.view(indices.shape)

    def standardized(self, mean: Tensor, std: Tensor) -> "Samples":
        """The same set, from which ``mean`` is subtracted and which is divided by ``std`` when it is read."""
        return replace(self, mean=mean, std=std)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(C,)`` of each channel of what is read."""
        channels = _as_numbers(self.inputs).transpose(0, 1).flatten(1)
        return channels.mean(1), channels.std(1, correction=0).clamp_min(1e-6)

    def _normalized(self, inputs: Tensor) -> Tensor:
        numbers = _as_numbers(inputs)
        if self.mean is not None and self.std is not None:
            per_channel = (-1, *[1] * (inputs.ndim - 2))
            numbers.sub_(self.mean.view(per_channel)).div_(self.std.view(per_channel))
        return numbers


def numbered_classes(wanted: str, *labels: Tensor) -> tuple[str, ...]:
    """The numbers from 0 to the largest of the labels, for classes without names.

    Raises:
        SettingError: If there are more of them than labels, which are other numbers then; it says that there must be what is ``wanted``.
    """
    samples = sum(map(len, labels))
    largest = max((int(values.max()) for values in labels if len(values)), default=0)
    require(
        largest < max(samples, 2),
        f"{wanted} where a label is as large as {largest}, of {samples} samples.",
    )
    return tuple(map(str, range(largest + 1)))


def as_precise(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs as they were read, numbers among them in ``dtype``."""
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def _as_numbers(inputs: Tensor) -> Tensor:
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs


class EvaluationBatches:
    """Every sample once, in order, in batches on the device of the set.

    Args:
        data: The samples.
        batch_size: Samples in a batch; the last may be shorter.
    """

    def __init__(self, data: Samples, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.split(
            torch.arange(len(self.data), device=self.data.labels.device), self.batch_size
        ):
            yield self.data.read(indices)
