"""The data sets that torchvision knows how to read and to download."""

from collections.abc import Callable
from typing import Any

import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, VisionDataset

from lightning_agg.data.base import Dataset, PoolDataModule
from lightning_agg.data.samples import Samples
from lightning_agg.errors import SettingError

FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
"""Where torchvision looks for a data set, if not in a folder of its name."""


class TorchvisionPool(PoolDataModule):
    """A data set read by torchvision.

    The usual sizes are 5,000 validation and 1,000 public samples.

    Args:
        root: Folder of the data set's files, as torchvision lays them out.
        download: Fetch the files if they are missing.
        kwargs: See :class:`PoolDataModule`.
    """

    dataset: Callable[..., VisionDataset]

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download if asked to; called in one process only."""
        if self.download:
            self._open(train=True, download=True)
            self._open(train=False, download=True)

    def usual_sizes(self, num_samples: int) -> tuple[int, int]:
        """See :meth:`PoolDataModule.usual_sizes`."""
        return 5000, 1000

    def load(self) -> Dataset:
        """Read both parts.

        Raises:
            SettingError: If the files are missing or damaged.
        """
        train, test = self._open(train=True), self._open(train=False)
        return Dataset(_samples(train), _samples(test), tuple(train.classes))

    def _open(self, train: bool, download: bool = False) -> Any:
        name = type(self).dataset.__name__
        try:
            return type(self).dataset(self.root, train=train, download=download)
        except NotADirectoryError as error:
            raise SettingError(f"data.root must be a folder, got {self.root}: {error.strerror}.") from error
        except RuntimeError as error:
            if download:
                raise self._not_fetched(name, error) from error
            if "not found" not in str(error).lower():
                raise self._damaged(name, error) from error
            raise SettingError(
                f"data.root must hold the files of {name} (root = {self.root}), and data.download is"
                f" {str(self.download).lower()}: set data.download to true to fetch them, or data.root to the folder that"
                f" holds {FOLDERS.get(name, name + '/raw')}."
            ) from error
        except (ValueError, AssertionError, EOFError, OSError) as error:
            raise (self._not_fetched if download else self._damaged)(name, error) from error

    def _not_fetched(self, name: str, error: Exception) -> SettingError:
        return SettingError(
            f"data.download could not fetch or unpack the files of {name} (data.root = {self.root}): put them there by hand,"
            f" or try again. ({type(error).__name__}: {str(error).splitlines()[0]})"
        )

    def _damaged(self, name: str, error: Exception) -> SettingError:
        return SettingError(
            f"data.root must hold complete files of {name} (root = {self.root}); one is truncated or damaged: delete it"
            f" and set data.download to true, or copy it again. ({type(error).__name__}: {error})"
        )


class MNISTPool(TorchvisionPool):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28, grey.

    The usual sizes are 5,000 validation and 1,000 public samples.

    Reference:
        LeCun, Bottou, Bengio, Haffner, *Gradient-based learning applied to document recognition*, Proc. IEEE 1998.

    Args:
        root: Folder that holds ``MNIST/raw``.
        download: Fetch the files if they are missing.
        kwargs: See :class:`PoolDataModule`.
    """

    dataset = MNIST


class FashionMNISTPool(TorchvisionPool):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28, grey.

    The usual sizes are 5,000 validation and 1,000 public samples.

    Reference:
        Xiao, Rasul, Vollgraf, *Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms*, 2017.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        download: Fetch the files if they are missing.
        kwargs: See :class:`PoolDataModule`.
    """

    dataset = FashionMNIST


class CIFAR10Pool(TorchvisionPool):
    """CIFAR-10: 50,000 training and 10,000 test images of objects, 32 x 32, RGB.

    The usual sizes are 5,000 validation and 1,000 public samples.

    Reference:
        Krizhevsky, *Learning multiple layers of features from tiny images*, technical report, 2009.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Fetch the files if they are missing.
        kwargs: See :class:`PoolDataModule`.
    """

    dataset = CIFAR10


class CIFAR100Pool(TorchvisionPool):
    """CIFAR-100: 50,000 training and 10,000 test images of objects of 100 classes, 32 x 32, RGB.

    The usual sizes are 5,000 validation and 1,000 public samples.

    Reference:
        Krizhevsky, *Learning multiple layers of features from tiny images*, technical report, 2009.

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Fetch the files if they are missing.
        kwargs: See :class:`PoolDataModule`.
    """

    dataset = CIFAR100


def _samples(dataset: Any) -> Samples:
    images = torch.as_tensor(dataset.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Samples(images, torch.as_tensor(dataset.targets).long())
