"""Any data set of torch."""

from collections.abc import Sized
from operator import index
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data
from torchvision.transforms.v2 import functional as V

from lightning_agg.data.base import Dataset, PoolDataModule, held_out
from lightning_agg.data.samples import Samples, numbered_classes
from lightning_agg.errors import SettingError, require


class DatasetPool(PoolDataModule):
    """Any ``torch.utils.data.Dataset`` with a length: torchvision's, another library's, or your own.

    Every sample is read once and kept in memory. A sample is an input and its label, a whole number from 0; and optionally, as a third, the
    number of the group that it comes from, for the partitioner ``ByGroup``. Inputs of equal shape: a PIL image or a tensor of uint8 ``(C, H, W)`` is an
    image; a floating tensor or array is taken as it is, whole numbers are indices. So leave out transforms that draw random numbers, which would be drawn
    once and for all; crops and mirrors are ``augment``. The names of the classes are its ``classes``, where it has them.

    The usual sizes are a tenth of the training samples for validation and a fiftieth for the public slice.

    Args:
        train: The training samples.
        test: The test samples; a stratified ``test_fraction`` of ``train``, the same for every seed, when null.
        test_fraction: Share held out for testing where ``test`` is null, between 0 and 1.
        kwargs: See :class:`PoolDataModule`.
    """

    def __init__(
        self,
        train: data.Dataset,  # type: ignore[type-arg]  # jsonargparse would not see the settings of a Dataset[Any]
        test: data.Dataset | None = None,  # type: ignore[type-arg]
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(0 < test_fraction < 1, f"data.test_fraction must be between 0 and 1, got {test_fraction}.")
        self.train_set = train
        self.test_set = test
        self.test_fraction = test_fraction

    def load(self) -> Dataset:
        """Read every sample.

        Raises:
            SettingError: If a sample is none, or they do not all have one shape and type.
        """
        train = _samples("train", self.train_set)
        if self.test_set is None:
            test, train = held_out(train, self.test_fraction, "test set of a data set")
        else:
            test = _samples("test", self.test_set)
        names = getattr(self.train_set, "classes", None)
        if not names:
            names = numbered_classes("data.train must have the attribute classes", train.labels, test.labels)
        return Dataset(train, test, tuple(map(str, names)))


def _samples(part: str, source: data.Dataset[Any]) -> Samples:
    """All of ``source``, as tensors."""
    require(
        isinstance(source, Sized) and len(source) > 0,
        f"data.{part} must be a data set with a length of at least 1, got {type(source).__name__}.",
    )
    assert isinstance(source, Sized)
    read = [source[place] for place in range(len(source))]
    for place, sample in enumerate(read):
        require(
            isinstance(sample, tuple | list) and len(sample) in (2, 3),
            f"data.{part} must give an input and its label, and perhaps a group, got {type(sample).__name__} for sample {place}.",
        )
    try:
        inputs = torch.stack([_as_tensor(sample[0]) for sample in read])
        labels, *groups = (
            torch.tensor([index(sample[place]) for sample in read]) for place in range(1, len(read[0]))
        )
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise SettingError(
            f"data.{part} must give inputs of one shape that are images or numbers, and labels that are whole numbers: {error}"
        ) from error
    return Samples(inputs, labels, *groups)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Image.Image):
        image: Tensor = V.pil_to_tensor(value)
        return image
    tensor = torch.as_tensor(np.asarray(value) if isinstance(value, list | tuple) else value)
    if tensor.dtype == torch.uint8:
        return tensor
    return tensor.float() if tensor.is_floating_point() else tensor.long()
