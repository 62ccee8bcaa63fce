"""Data divided among a pool of workers.

``DigitsPool`` needs no download; ``MNISTPool``, ``FashionMNISTPool`` and ``CIFAR10Pool`` read torchvision's files;
``ImageFolderPool`` reads your own images. ``LabelPool`` is for problems with known answers.
"""

from lightning_agg.data.base import Dataset, PoolDataModule
from lightning_agg.data.digits import DigitsPool
from lightning_agg.data.image_folder import ImageFolderPool
from lightning_agg.data.images import LabelledImages
from lightning_agg.data.label_pool import LabelPool
from lightning_agg.data.pool import RoundBatch, Rounds, WorkerPool
from lightning_agg.data.torchvision_pool import CIFAR10Pool, FashionMNISTPool, MNISTPool, TorchvisionPool

__all__ = [
    "CIFAR10Pool",
    "Dataset",
    "DigitsPool",
    "FashionMNISTPool",
    "ImageFolderPool",
    "LabelPool",
    "LabelledImages",
    "MNISTPool",
    "PoolDataModule",
    "RoundBatch",
    "Rounds",
    "TorchvisionPool",
    "WorkerPool",
]
