"""Labels without features, for problems whose answer is known."""

from typing import Any, Literal

import torch

from lightning_agg.data.base import Dataset, PoolDataModule
from lightning_agg.data.samples import Samples
from lightning_agg.partitioners import ByLabel
from lightning_agg.partitioners.base import Partitioner


class LabelPool(PoolDataModule):
    """Samples that tell nothing but their label: worker i holds label i, and nothing else.

    With a model that ignores its input, ``Quadratic`` or ``SoftmaxBias``, the worker's objective is that of its label:
    a problem with as many objectives as workers, run through the same rounds as any other. Validation, public and test
    data hold each label once, so ``val/loss`` is the mean objective itself.

    Args:
        pool_size: Number M of workers and of labels, at least 2.
        batch_size: As in :class:`PoolDataModule`; all samples of a worker are alike.
        partitioner: How the samples are divided; ``ByLabel``, worker i has label i, when null.
        kwargs: See :class:`PoolDataModule`.
    """

    def __init__(
        self,
        pool_size: int = 3,
        batch_size: int | Literal["full"] = "full",
        partitioner: Partitioner | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            pool_size=pool_size, batch_size=batch_size, partitioner=partitioner or ByLabel(), **kwargs
        )

    def usual_sizes(self, num_samples: int) -> tuple[int, int]:
        """See :meth:`PoolDataModule.usual_sizes`: each label once."""
        return self.pool_size, self.pool_size

    def load(self) -> Dataset:
        """Three samples of each label for training, validation and the public slice, and one for the test."""
        labels = torch.arange(self.pool_size)
        names = tuple(map(str, range(self.pool_size)))
        return Dataset(_samples(labels.repeat(3)), _samples(labels), names)


def _samples(labels: torch.Tensor) -> Samples:
    return Samples(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
