"""The user's own arrays."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_agg.data.base import Dataset, PoolDataModule
from lightning_agg.data.samples import Samples, numbered_classes
from lightning_agg.errors import SettingError, require

NAMES = ("x_train", "y_train", "x_test", "y_test")
GROUPS = "group_train"
CLASSES = "classes"


class ArrayPool(PoolDataModule):
    """Your own arrays, in a file of NumPy: tables, signals, indices of words, or images.

    The file is what ``numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)`` writes. Inputs are ``(N, ...)``: floating numbers, of which
    the first dimension after N counts features or channels; images ``(N, H, W)`` or ``(N, H, W, C)`` in uint8; or whole numbers, such
    as indices of words, for a model that begins with an ``Embedding``. Labels are ``(N,)`` whole numbers from 0 to C - 1. Optional: ``group_train``,
    ``(N,)`` whole numbers, whom each sample comes from, for the partitioner ``ByGroup``; and ``classes``, ``(C,)`` names, the numbers when there are none.

    The usual sizes are a tenth of the training samples for validation and a fiftieth for the public slice.

    Args:
        path: The file, ``.npz``.
        kwargs: See :class:`PoolDataModule`.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)

    def load(self) -> Dataset:
        """Read the arrays.

        Raises:
            SettingError: If the file is not there, or does not hold what it must.
        """
        arrays = self._read()
        missing = [name for name in NAMES if name not in arrays]
        require(
            not missing,
            f"data.path must be a file with the arrays {', '.join(NAMES)}, got {self.path} without {', '.join(missing)}.",
        )
        labels = {name: self._whole(name, arrays[name]) for name in ("y_train", "y_test")}
        groups = self._whole(GROUPS, arrays[GROUPS]) if GROUPS in arrays else None
        if CLASSES in arrays:
            require(
                arrays[CLASSES].ndim == 1,
                f"data.path: {CLASSES} must be a name for each class, got shape {arrays[CLASSES].shape}.",
            )
            names = tuple(map(str, arrays[CLASSES]))
        else:
            names = numbered_classes(f"data.path must be a file with the array {CLASSES}", *labels.values())
        return Dataset(
            Samples(self._inputs("x_train", arrays), labels["y_train"], groups),
            Samples(self._inputs("x_test", arrays), labels["y_test"]),
            names,
        )

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise SettingError(
                f"data.path must be a file that numpy.savez has written, without Python objects, got {self.path}: {error}"
            ) from error

    def _inputs(self, name: str, arrays: dict[str, np.ndarray]) -> torch.Tensor:
        array = arrays[name]
        if array.dtype == np.uint8:
            require(
                array.ndim in (3, 4),
                f"data.path: {name} must be images (N, H, W) or (N, H, W, C) where it is uint8, got shape {array.shape};"
                " other whole numbers must be of another type.",
            )
            images = torch.from_numpy(array)
            return images[:, None] if array.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        if np.issubdtype(array.dtype, np.floating):
            return torch.from_numpy(array.astype(np.float32))
        return self._whole(name, array)

    def _whole(self, name: str, array: np.ndarray) -> torch.Tensor:
        require(
            np.issubdtype(array.dtype, np.integer),
            f"data.path: {name} must be numbers, {'' if name.startswith('x') else 'whole ones, '}got {array.dtype} of shape {array.shape}.",
        )
        return torch.from_numpy(array.astype(np.int64))
