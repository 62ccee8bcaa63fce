"""Splits, batches and augmentation."""

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SHARED_DATA

from lightning_agg.data import (
    CIFAR10Pool,
    DigitsPool,
    ImageFolderPool,
    LabelledImages,
    MNISTPool,
    Rounds,
    WorkerPool,
)
from lightning_agg.data.base import Dataset, PoolDataModule, stratified_order
from lightning_agg.data.images import EvaluationBatches, crop_and_flip
from lightning_agg.data.pool import block, participants
from lightning_agg.errors import SettingError
from lightning_agg.partitioners import IID, QuantitySkew
from lightning_agg.seeding import generator

real_files = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the original data files are not beside this checkout"
)


def ready(data):
    data.setup("fit")
    return data


def identities(images: LabelledImages) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_the_four_parts_are_disjoint_and_together_everything():
    data = ready(DigitsPool(val_size=150, public_size=50, seed=3))
    shards = np.concatenate(data.pool.shards)
    train = data.pool.data
    held = [identities(part) for part in (data.val, data.public, train.take(shards), data.test)]
    assert [len(data.val), len(data.public), len(shards), len(data.test)] == [150, 50, 1237, 360]
    assert len(set().union(*held)) == sum(map(len, held))


def test_splits_are_stratified():
    data = ready(DigitsPool())
    for part, size in ((data.val, 200), (data.public, 100), (data.test, 360)):
        assert (torch.bincount(part.labels) - size / 10).abs().max() <= 1.5


def test_the_test_set_does_not_depend_on_the_seed():
    assert identities(ready(DigitsPool(seed=1)).test) == identities(ready(DigitsPool(seed=2)).test)
    assert identities(ready(DigitsPool(seed=1)).val) != identities(ready(DigitsPool(seed=2)).val)


def test_stratified_order_keeps_proportions_in_every_beginning():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = stratified_order(labels, generator(0, "test"))
    assert sorted(order) == list(range(1000))
    for size in (10, 50, 333):
        assert (
            np.abs(np.bincount(labels[order[:size]], minlength=3) - size * np.array([0.6, 0.3, 0.1])).max()
            <= 1.5
        )


def test_a_batch_is_a_function_of_seed_worker_and_step():
    data = ready(DigitsPool(batch_size=16))
    rounds = data.train_dataloader()
    later, first = rounds.batch(9), rounds.batch(0)
    assert torch.equal(rounds.batch(9).inputs, later.inputs)
    assert not torch.equal(first.inputs, later.inputs)
    other = ready(DigitsPool(batch_size=16, pool_size=10, seed=1)).train_dataloader().batch(0)
    assert not torch.equal(first.inputs, other.inputs)
    inputs, targets, weights = data.pool.batch([7], 9)
    assert torch.equal(inputs[0], later.inputs[7, 0])
    assert torch.equal(targets[0], later.targets[7, 0])
    assert weights is None


def test_an_epoch_uses_each_sample_once():
    pool = ready(DigitsPool(batch_size=10, pool_size=3)).pool
    shard = pool.shards[1]
    batches = len(shard) // 10
    seen = np.concatenate([pool._indices(1, step) for step in range(batches)])
    assert len(np.unique(seen)) == 10 * batches
    assert set(seen) <= set(shard)
    assert not np.array_equal(
        seen, np.concatenate([pool._indices(1, batches + step) for step in range(batches)])
    )


def test_a_shard_for_every_worker(monkeypatch):
    split = IID.split
    monkeypatch.setattr(
        IID, "split", lambda self, labels, pool_size, rng: split(self, labels, pool_size // 2, rng)
    )
    with pytest.raises(
        SettingError, match=r"one shard to each of data\.pool_size = 10 workers, got 5 of IID"
    ):
        ready(DigitsPool(pool_size=10, batch_size=4))


def test_full_batches_are_the_padded_shards():
    data = ready(DigitsPool(batch_size="full", pool_size=4, partitioner=QuantitySkew(alpha=1.0, min_size=5)))
    batch = data.train_dataloader().batch(3)
    sizes = [len(shard) for shard in data.pool.shards]
    assert batch.weights.sum(dim=(1, 2)).tolist() == sizes
    assert batch.inputs.shape[2] == max(sizes)
    worker = int(np.argmin(sizes))
    labels = data.pool.data.labels[torch.from_numpy(data.pool.shards[worker])]
    assert torch.equal(batch.targets[worker, 0, : sizes[worker]], labels)
    assert len(data.train_dataloader()) == 1
    alone, _, weights = data.pool.batch([worker], 0)
    assert torch.equal(alone[0], batch.inputs[worker, 0])
    assert torch.equal(weights[0], batch.weights[worker, 0])


def test_rounds_resume_where_they_were():
    data = ready(DigitsPool(batch_size=16))
    rounds = data.train_dataloader()
    walk = iter(rounds)
    for _ in range(5):
        next(walk)
    again = data.train_dataloader()
    again.load_state_dict(rounds.state_dict())
    expected, resumed = next(walk), next(iter(again))
    assert expected.round == resumed.round == 5
    assert torch.equal(expected.inputs, resumed.inputs)


def test_local_steps_use_consecutive_batches():
    pool = ready(DigitsPool(batch_size=8)).pool
    batch = Rounds(pool, 5, local_steps=3).batch(4)
    assert batch.inputs.shape[:3] == (10, 3, 8)
    assert torch.equal(batch.inputs[:, 1], pool.batch(range(10), 13)[0])


def test_participants_are_a_fair_sample():
    drawn = [participants(10, 0.3, 0, index) for index in range(300)]
    assert all(len(set(row)) == 3 and list(row) == sorted(row) for row in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts.min() > 60
    assert counts.max() < 120
    assert participants(10, 1.0, 0, 5) == tuple(range(10))
    assert len(participants(10, 0.01, 0, 5)) == 1


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_blocks_cover_the_workers_in_order(size, processes):
    workers = tuple(range(size))
    blocks = [block(workers, rank, processes) for rank in range(processes)]
    assert sum(blocks, ()) == workers
    assert all(len(b) <= -(-size // processes) for b in blocks)


def test_pixels_are_scaled_or_standardised():
    plain, standard = ready(DigitsPool()), ready(DigitsPool(standardize=True))
    images, _ = next(iter(plain.val_dataloader()))
    assert images.min() == 0
    assert images.max() == 1
    rows = torch.from_numpy(np.concatenate(standard.pool.shards))
    images, _ = standard.pool.data.read(rows)
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-3)
    assert torch.equal(standard.test.mean, standard.pool.data.mean)


def test_evaluation_sees_every_sample_once():
    data = LabelledImages(torch.zeros(25, 1, 2, 2, dtype=torch.uint8), torch.arange(25))
    batches = EvaluationBatches(data, 10)
    assert [len(labels) for _, labels in batches] == [10, 10, 5]
    assert len(batches) == 3
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(25))


def test_classes_keep_a_subset():
    data = ready(DigitsPool(classes=[2, 5], batch_size=8, val_size=20, public_size=10))
    assert data.num_classes == 10
    for part in (data.pool.data, data.val, data.public, data.test):
        assert set(part.labels.tolist()) == {2, 5}


def test_crop_and_flip_moves_pixels_only():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8) + 1
    moved = crop_and_flip(images, seed=0, worker=1, step=2)
    assert moved.shape == images.shape
    assert torch.equal(moved, crop_and_flip(images, seed=0, worker=1, step=2))
    assert not torch.equal(moved, crop_and_flip(images, seed=0, worker=2, step=2))
    rng = generator(0, "augment", 1, 2)
    top, left = rng.integers(0, 9, (2, 2))
    mirrored = rng.integers(0, 2, (1, 2))[0]
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for i in range(2):
        window = padded[i, :, top[i] : top[i] + 8, left[i] : left[i] + 8]
        assert torch.equal(moved[i], window.flip(-1) if mirrored[i] else window)


def test_images_of_the_user(tmp_path):
    rng = generator(0, "images")
    for name, level in (("dark", 20), ("light", 220)):
        (tmp_path / name).mkdir()
        for i in range(30):
            pixels = (level + rng.integers(0, 20, (12, 10, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data = ready(ImageFolderPool(str(tmp_path), image_size=8, pool_size=4, batch_size=4))
    assert data.class_names == ("dark", "light")
    assert data.sample_shape == (3, 8, 8)
    assert len(data.test) == 12
    assert len(data.val) == 4
    bright = data.test.images.float().mean(dim=(1, 2, 3)) > 128
    assert torch.equal(bright.long(), data.test.labels)
    other = ready(ImageFolderPool(str(tmp_path), image_size=8, pool_size=4, batch_size=4, seed=1))
    assert torch.equal(other.test.images, data.test.images)
    assert not torch.equal(other.val.images, data.val.images)
    deep = ImageFolderPool(str(tmp_path))
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(tmp_path / "16 bits.png")
    assert deep._read(deep._index(), str(tmp_path / "16 bits.png")).unique().tolist() == [100]
    assert ready(ImageFolderPool(str(tmp_path), grayscale=True, batch_size=2)).sample_shape == (1, 32, 32)


@real_files
def test_the_original_files_are_read():
    data = ready(MNISTPool(root=str(SHARED_DATA)))
    assert data.sample_shape == (1, 28, 28)
    assert [len(data.val), len(data.public), len(data.test)] == [5000, 1000, 10000]
    assert [len(shard) for shard in data.pool.shards] == [5400] * 10
    # Known of MNIST: pixel mean 0.1307 and the first test digits.
    assert data.pool.data.images.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@real_files
@pytest.mark.slow
def test_cifar_is_read():
    data = ready(CIFAR10Pool(root=str(SHARED_DATA), standardize=True))
    assert data.sample_shape == (3, 32, 32)
    assert data.class_names[3] == "cat"
    assert data.pool.data.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert data.test.labels[:4].tolist() == [3, 8, 8, 0]


def test_a_pool_needs_no_trainer():
    data = LabelledImages(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6))
    pool = WorkerPool(data, [np.array([0, 1, 2]), np.array([3, 4, 5])], batch_size=3, seed=0)
    assert sorted(pool.batch([1], 0)[1][0].tolist()) == [3, 4, 5]
    assert pool.label_counts(6).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


def test_folders_that_cannot_be_learnt_from_are_refused(tmp_path):
    (tmp_path / "only").mkdir()
    for i in range(20):
        Image.new("RGB", (4, 4)).save(tmp_path / "only" / f"{i}.png")
    with pytest.raises(SettingError, match="at least two classes, ImageFolderPool has 1"):
        ready(ImageFolderPool(str(tmp_path)))
    with pytest.raises(SettingError, match=r"test_fraction = 0.01, images = 20"):
        ready(ImageFolderPool(str(tmp_path), test_fraction=0.01))


def test_the_partition_follows_the_seed_of_the_data_unless_it_has_its_own():
    def sizes(seed, own=None):
        data = ready(DigitsPool(batch_size=1, seed=seed, partitioner=QuantitySkew(0.5, seed=own)))
        return list(map(len, data.pool.shards))

    assert sizes(1) == sizes(1) == sizes(2, own=1)
    assert sizes(1) != sizes(2)


def test_two_of_the_digits_leave_something_to_train_on():
    data = ready(DigitsPool(pool_size=4, batch_size=16, classes=[0, 1]))
    assert len(data.val) + len(data.public) + sum(map(len, data.pool.shards)) == 287
    assert len(data.val) > len(data.public) > 10


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(40, 1, 2, 2), torch.arange(40) % 4, "must be uint8 of shape"),
        (torch.zeros(40, 2, 2, dtype=torch.uint8), torch.arange(40) % 4, "must be uint8 of shape"),
        (torch.zeros(40, 1, 2, 2, dtype=torch.uint8), (torch.arange(40) % 4).int(), "must be int64"),
        (torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.arange(39) % 4, "one for each of the 40 images"),
        (torch.zeros(40, 1, 2, 2, dtype=torch.uint8), 1 + torch.arange(40) % 4, "must be 0 to 3"),
    ],
)
def test_what_a_data_set_of_ones_own_must_hold(images, labels, message):
    class Own(PoolDataModule):
        def load(self):
            data = LabelledImages(images, labels)
            return Dataset(data, data, tuple("abcd"))

        def usual_sizes(self, num_samples):
            return 4, 4

    with pytest.raises(SettingError, match=message):
        ready(Own(pool_size=2, batch_size=2))
