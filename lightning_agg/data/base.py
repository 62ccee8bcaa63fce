"""Base class of all data: a resident data set, split, then divided among the workers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import lightning as L
import numpy as np
import torch

from lightning_agg import seeding
from lightning_agg.data.pool import Rounds, Windows, WorkerPool
from lightning_agg.data.samples import EvaluationBatches, Samples
from lightning_agg.errors import require, require_count
from lightning_agg.partitioners import IID
from lightning_agg.partitioners.base import Partitioner


@dataclass(frozen=True)
class Dataset:
    """What a data set is before any setting applies: two parts and the names of the classes."""

    train: Samples
    test: Samples
    classes: tuple[str, ...]


class PoolDataModule(L.LightningDataModule, ABC):
    """Training data divided among the workers of a pool; validation and test data held by the server.

    From the training set, a validation split and a public slice that the server holds are taken first, both
    stratified by class; the rest is partitioned. The four parts are disjoint. Samples stay on the device as one
    tensor, images in uint8, and are normalised when they are read.

    To add a data set, subclass and define :meth:`load`.

    Args:
        pool_size: Number M of workers.
        batch_size: Samples per worker and local step, or ``full`` for the whole shard.
        partitioner: How the training samples are divided; ``IID`` when null.
        classes: Keep only these labels (CIFAR-2 is ``[0, 1]``); the model keeps all its outputs. All when null.
        val_size: Samples of the validation split; the data set's usual number when null.
        public_size: Samples of the server's public slice; the data set's usual number when null.
        standardize: Subtract the means of the training samples, per channel or feature, and divide by their deviations;
            otherwise pixels are in [0, 1] and other numbers as they are.
        augment: Crop with a padding of 4 and mirror the training images.
        rounds_per_epoch: Rounds that make an epoch; when null, those in which the smallest shard is seen once (of ``MetaLearner``: windows, 100).
        eval_batch_size: Samples of a batch in validation and test.
        seed: Seed of splits, batches and augmentation; the run's seed when null.
    """

    def __init__(
        self,
        pool_size: int = 10,
        batch_size: int | Literal["full"] = 64,
        partitioner: Partitioner | None = None,
        classes: list[int] | None = None,
        val_size: int | None = None,
        public_size: int | None = None,
        standardize: bool = False,
        augment: bool = False,
        rounds_per_epoch: int | None = None,
        eval_batch_size: int = 1000,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.batch_size: int | Literal["full"] = batch_size
        require(
            isinstance(partitioner, Partitioner | None),
            f"data.partitioner must be a Partitioner, got {partitioner!r}.",
        )
        self.partitioner = partitioner or IID()
        self.classes = classes
        self.val_size = val_size
        self.public_size = public_size
        self.standardize = standardize
        self.augment = augment
        self.rounds_per_epoch = rounds_per_epoch
        self.eval_batch_size = eval_batch_size
        self.seed = seeding.run_seed(seed)
        self.local_steps = 1
        self.participation = 1.0
        self.episodes: int | None = None
        for name, value, minimum in (
            ("pool_size", pool_size, 1),
            ("batch_size", 1 if batch_size == "full" else batch_size, 1),
            ("val_size", val_size, 1),
            ("public_size", public_size, 0),
            ("rounds_per_epoch", rounds_per_epoch, 1),
            ("eval_batch_size", eval_batch_size, 1),
        ):
            if value is not None:
                require_count(f"data.{name}", value, minimum)

    @abstractmethod
    def load(self) -> Dataset:
        """Read the data set from its files; called once in each process."""

    def usual_sizes(self, num_samples: int) -> tuple[int, int]:
        """Sizes of the validation split and the public slice that stand where the settings are null."""
        return max(1, num_samples // 10), num_samples // 50

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set, kept by ``classes`` or not."""
        return len(self.class_names)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input, ``(C, H, W)`` of an image."""
        return tuple(self.test.inputs.shape[1:])

    @property
    def example(self) -> torch.Tensor:
        """Inputs to try a model on: one of zeros, or of indices the samples with the smallest and the largest of each split."""
        if self.test.inputs.dtype != torch.int64:
            return torch.zeros(1, *self.sample_shape)
        splits = [samples.inputs for samples in (self.pool.data, self.val, self.public, self.test)]
        indices = [(inputs, inputs.flatten(1)) for inputs in splits if len(inputs)]
        return torch.stack(
            [
                inputs[place].cpu()
                for inputs, flat in indices
                for place in (flat.amin(1).argmin(), flat.amax(1).argmax())
            ]
        )

    def setup(self, stage: str) -> None:
        """Load, split and partition; the first call does the work."""
        if hasattr(self, "pool"):
            return
        dataset = self.load()
        require(
            isinstance(dataset, Dataset),
            f"{type(self).__name__}.load must return a lightning_agg.data.Dataset, got {type(dataset).__name__}.",
        )
        self.class_names = dataset.classes
        require(
            len(dataset.classes) > 1,
            f"data must have at least two classes, {type(self).__name__} has {len(dataset.classes)}.",
        )
        self._check_samples(dataset)
        train, test = self._kept(dataset.train), self._kept(dataset.test)
        require(len(test) > 0, f"data.classes must leave a sample of the test set, got {self.classes}.")
        labels = train.labels.numpy()
        val_size, public_size = self._sizes(len(labels))
        order = stratified_order(labels, seeding.generator(self.seed, "split"))
        val, public, private = np.split(order, [val_size, val_size + public_size])
        private = np.sort(private)
        if self.standardize:
            statistics = train.take(private).statistics()
            train, test = train.standardized(*statistics), test.standardized(*statistics)
        self.private = private
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        train = train.to(device)
        self.val, self.public = train.take(val), train.take(public)
        self.test = test.to(device)
        self.train = train
        self.pool = self.divided(self.partitioner, self.seed)

    def divided(
        self, partitioner: Partitioner, seed: int | None, setting: str = "data.partitioner"
    ) -> WorkerPool:
        """The workers with the training samples divided by ``partitioner``, that of ``setting``, ``seed`` counting where it has none.

        Raises:
            SettingError: If that gives no shard to some worker, or too small a one.
        """
        told = self._told_to(partitioner, setting)[self.private]
        shards = [self.private[shard] for shard in partitioner(told, self.pool_size, seed)]
        self._check_shards(partitioner, [len(shard) for shard in shards], setting)
        return WorkerPool(self.train, shards, self.batch_size, self.seed, self.augment)

    def train_dataloader(self) -> Rounds | Windows:
        """The rounds, for the workers of this process; windows, if the module plays episodes."""
        if self.episodes is not None:
            windows = Windows(self.rounds_per_epoch or 100)
            windows.index = 0 if self.trainer is None else self.trainer.global_step
            return windows
        strategy = None if self.trainer is None else self.trainer.strategy
        rounds = Rounds(
            self.pool,
            self.rounds_per_epoch or self._natural_epoch(),
            self.local_steps,
            self.participation,
            getattr(strategy, "global_rank", 0),
            getattr(strategy, "world_size", 1),
        )
        # Lightning asks again in a second fit of the same Trainer, and every few epochs if it is told to reload.
        rounds.round = 0 if self.trainer is None else self.trainer.global_step
        return rounds

    def val_dataloader(self) -> EvaluationBatches | range:
        """The validation split; the indices of episodes, if the module plays them."""
        if self.episodes is not None:
            return range(self.episodes)
        return EvaluationBatches(self.val, self.eval_batch_size)

    def test_dataloader(self) -> EvaluationBatches | range:
        """The data set's own test set; the indices of episodes, if the module plays them."""
        if self.episodes is not None:
            return range(self.episodes)
        return EvaluationBatches(self.test, self.eval_batch_size)

    def predict_dataloader(self) -> EvaluationBatches | range:
        """The test set again: predictions are written beside its labels."""
        return self.test_dataloader()

    def _natural_epoch(self) -> int:
        if self.batch_size == "full":
            return 1
        return max(1, min(map(len, self.pool.shards)) // (self.batch_size * self.local_steps))

    def _kept(self, data: Samples) -> Samples:
        if self.classes is None:
            return data
        known = range(self.num_classes)
        unknown = [label for label in self.classes if label not in known]
        require(
            not unknown and len(set(self.classes)) == len(self.classes) > 0,
            f"data.classes must be distinct labels between 0 and {self.num_classes - 1}, got {self.classes}.",
        )
        return data.take(np.flatnonzero(np.isin(data.labels.numpy(), self.classes)))

    def _sizes(self, num_samples: int) -> tuple[int, int]:
        usual_val, usual_public = self.usual_sizes(num_samples)
        val_size = usual_val if self.val_size is None else self.val_size
        public_size = usual_public if self.public_size is None else self.public_size
        require(
            val_size + public_size < num_samples,
            "data.val_size + data.public_size must be below the number of training samples"
            f" (val_size = {val_size}, public_size = {public_size}, samples = {num_samples}).",
        )
        return val_size, public_size

    def _told_to(self, partitioner: Partitioner, setting: str) -> np.ndarray:
        train = self.train
        if not partitioner.by_group:
            return train.labels.cpu().numpy()
        require(
            train.groups is not None,
            f"{setting} must not be {type(partitioner).__name__}: {type(self).__name__} does not say whom a sample"
            " comes from.",
        )
        assert train.groups is not None
        return train.groups.cpu().numpy()

    def _check_samples(self, dataset: Dataset) -> None:
        for part, data in (("train", dataset.train), ("test", dataset.test)):
            data.check(part, len(dataset.classes))
        train, test = dataset.train.inputs, dataset.test.inputs
        require(
            train.shape[1:] == test.shape[1:] and train.dtype == test.dtype,
            f"the train and test inputs of a data set must be alike, got {train.dtype} of shape {tuple(train.shape[1:])} each, and {test.dtype}"
            f" of shape {tuple(test.shape[1:])}.",
        )
        require(
            not self.augment or dataset.train.are_images,
            f"data.augment must be false where the inputs are no images, got {train.dtype} of shape {tuple(train.shape)}.",
        )
        require(
            not self.standardize or train.dtype != torch.int64,
            "data.standardize must be false where the inputs are indices (int64).",
        )

    def _check_shards(self, partitioner: Partitioner, sizes: list[int], setting: str) -> None:
        require(
            len(sizes) == self.pool_size,
            f"{setting} must give one shard to each of data.pool_size = {self.pool_size} workers, got"
            f" {len(sizes)} of {type(partitioner).__name__}.",
        )
        worker = int(np.argmin(sizes))
        require(
            self.batch_size == "full" or sizes[worker] >= self.batch_size,
            f"data.batch_size must not exceed the smallest shard (batch_size = {self.batch_size}, worker {worker} has"
            f" {sizes[worker]} samples of {type(partitioner).__name__}): lower it, use full, or raise {setting}.min_size.",
        )


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All indices in a random order of which every beginning holds the classes in the proportions of ``labels``."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(starts, counts)
    quantile = (within + 0.5) / np.repeat(counts, counts)
    return by_class[np.argsort(quantile, kind="stable")]


def held_out(data: Samples, fraction: float, purpose: str) -> tuple[Samples, Samples]:
    """A stratified ``fraction`` of a data set that has no test part, drawn from ``purpose`` alone, and the rest.

    Raises:
        SettingError: If that is not a single sample.
    """
    size = round(fraction * len(data))
    require(
        size > 0,
        f"data.test_fraction must hold out at least one sample (test_fraction = {fraction}, samples = {len(data)}).",
    )
    order = stratified_order(data.labels.numpy(), seeding.generator(0, purpose))
    test, train = np.split(order, [size])
    return data.take(test), data.take(train)
