"""Data divided among a pool of workers.

``DigitsPool`` needs no download; ``MNISTPool``, ``FashionMNISTPool``, ``CIFAR10Pool`` and ``CIFAR100Pool`` read torchvision's
files; ``ImageFolderPool`` reads your own images, ``ArrayPool`` your own arrays, and ``DatasetPool`` any data set of torch.
``LabelPool`` is for problems with known answers.
"""

from lightning_agg.data.array_pool import ArrayPool
from lightning_agg.data.base import Dataset, PoolDataModule
from lightning_agg.data.dataset_pool import DatasetPool
from lightning_agg.data.digits import DigitsPool
from lightning_agg.data.image_folder import ImageFolderPool
from lightning_agg.data.label_pool import LabelPool
from lightning_agg.data.pool import RoundBatch, Rounds, WorkerPool
from lightning_agg.data.samples import Samples
from lightning_agg.data.torchvision_pool import (
    CIFAR10Pool,
    CIFAR100Pool,
    FashionMNISTPool,
    MNISTPool,
    TorchvisionPool,
)

__all__ = [
    "ArrayPool",
    "CIFAR10Pool",
    "CIFAR100Pool",
    "Dataset",
    "DatasetPool",
    "DigitsPool",
    "FashionMNISTPool",
    "ImageFolderPool",
    "LabelPool",
    "MNISTPool",
    "PoolDataModule",
    "RoundBatch",
    "Rounds",
    "Samples",
    "TorchvisionPool",
    "WorkerPool",
]
