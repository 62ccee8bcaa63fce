"""The user's own images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as V

from lightning_agg.data.base import Dataset, PoolDataModule, held_out
from lightning_agg.data.samples import Samples
from lightning_agg.errors import SettingError, require

TEST_FRACTION = 0.2
PARTS = "train", "test", "val"


class ImageFolderPool(PoolDataModule):
    """Your own images: a folder with one folder per class, of the formats of torchvision's ``ImageFolder`` (PNG, JPEG, ...).

    Every image is read once, resized to a square, and kept in memory, with 8 bits a channel. Where the folder holds ``train`` and
    ``test`` (or ``train`` and ``val``) with the class folders in each, the second is the test set; else a stratified
    ``test_fraction``, the same for every seed, is held out. The usual sizes are a tenth of the rest for validation and a
    fiftieth for the public slice.

    Args:
        root: The folder that holds the class folders, or ``train`` and ``test``.
        image_size: Side of the square, in pixels.
        grayscale: Read one channel instead of RGB.
        test_fraction: Share of the images held out for testing, between 0 and 1; 0.2 when null. Null where there is a test folder.
        kwargs: See :class:`PoolDataModule`.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        grayscale: bool = False,
        test_fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(image_size >= 1, f"data.image_size must be at least 1, got {image_size}.")
        require(
            test_fraction is None or 0 < test_fraction < 1,
            f"data.test_fraction must be between 0 and 1, got {test_fraction}.",
        )
        self.root = Path(root)
        self.image_size = image_size
        self.grayscale = grayscale
        self.test_fraction = test_fraction

    def load(self) -> Dataset:
        """Read and resize every image.

        Raises:
            SettingError: If a file is not an image, or the parts do not have the same classes.
        """
        parts = [name for name in PARTS if (self.root / name).is_dir()]
        if "train" not in parts or len(parts) == 1:
            data, classes = self._samples(self.root)
            test, train = held_out(data, self.test_fraction or TEST_FRACTION, "image folder test set")
            return Dataset(train, test, classes)
        require(
            len(parts) == 2,
            f"data.root must hold a test set of one folder, beside train (root = {self.root}, folders = {', '.join(parts)}):"
            " put the images of val into train, of which data.val_size holds out so many.",
        )
        require(
            self.test_fraction is None,
            f"data.test_fraction must be null where data.root has a folder {parts[1]} (test_fraction = {self.test_fraction}).",
        )
        (train, classes), (test, others) = (self._samples(self.root / name) for name in parts)
        require(
            classes == others,
            f"data.root must hold the same classes in train ({', '.join(classes)}) and {parts[1]} ({', '.join(others)}).",
        )
        return Dataset(train, test, classes)

    def _samples(self, folder: Path) -> tuple[Samples, tuple[str, ...]]:
        index = _index(folder)
        images = torch.stack([self._read(index, path) for path, _ in index.samples])
        return Samples(images, torch.tensor(index.targets)), tuple(index.classes)

    def _read(self, index: ImageFolder, path: str) -> torch.Tensor:
        try:
            image: torch.Tensor = V.pil_to_tensor(
                index.loader(path).resize((self.image_size, self.image_size))
            )
        except OSError as error:
            raise SettingError(f"data.root must hold images only; {path} cannot be read: {error}") from error
        if self.grayscale:
            image = V.rgb_to_grayscale(image)
        return image


def _index(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(str(folder), loader=_open)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SettingError(
            f"data.root must be a folder with one folder of images per class (root = {folder}): {error}"
        ) from error


def _open(path: str) -> Image.Image:
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255
            return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
        return image.convert("RGB")
