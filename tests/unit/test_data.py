"""Splits, batches and augmentation."""

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SHARED_DATA
from torch.utils.data import TensorDataset

from lightning_agg.data import (
    ArrayPool,
    CIFAR10Pool,
    DatasetPool,
    DigitsPool,
    ImageFolderPool,
    MNISTPool,
    Rounds,
    Samples,
    WorkerPool,
)
from lightning_agg.data.augment import crop_and_flip
from lightning_agg.data.base import Dataset, PoolDataModule, stratified_order
from lightning_agg.data.image_folder import _index
from lightning_agg.data.pool import block, participants
from lightning_agg.data.samples import EvaluationBatches, as_precise
from lightning_agg.errors import SettingError
from lightning_agg.partitioners import IID, ByGroup, QuantitySkew
from lightning_agg.seeding import generator

real_files = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the original data files are not beside this checkout"
)


def ready(data):
    data.setup("fit")
    return data


def identities(images: Samples) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.inputs}


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
    data = Samples(torch.zeros(25, 1, 2, 2, dtype=torch.uint8), torch.arange(25))
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
    bright = data.test.inputs.float().mean(dim=(1, 2, 3)) > 128
    assert torch.equal(bright.long(), data.test.labels)
    other = ready(ImageFolderPool(str(tmp_path), image_size=8, pool_size=4, batch_size=4, seed=1))
    assert torch.equal(other.test.inputs, data.test.inputs)
    assert not torch.equal(other.val.inputs, data.val.inputs)
    deep = ImageFolderPool(str(tmp_path))
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(tmp_path / "16 bits.png")
    assert deep._read(_index(tmp_path), str(tmp_path / "16 bits.png")).unique().tolist() == [100]
    assert ready(ImageFolderPool(str(tmp_path), grayscale=True, batch_size=2)).sample_shape == (1, 32, 32)


def write_images(folder, count, **values):
    """``count`` images of each class, of one value each."""
    for name, value in values.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / name / f"{i}.png")


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_folder_with_parts_of_its_own(tmp_path, name):
    write_images(tmp_path / "train", 20, cat=10, dog=200)
    write_images(tmp_path / name, 3, cat=20, dog=210)
    data = ready(ImageFolderPool(str(tmp_path), pool_size=2, batch_size=2))
    assert data.class_names == ("cat", "dog")
    assert data.test.inputs.unique().tolist() == [20, 210]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val.inputs.unique().tolist() == [10, 200]
    with pytest.raises(SettingError, match=f"must be null where data.root has a folder {name}"):
        ready(ImageFolderPool(str(tmp_path), test_fraction=0.5))
    write_images(tmp_path / name, 3, fox=1)
    with pytest.raises(
        SettingError, match=rf"the same classes in train \(cat, dog\) and {name} \(cat, dog, fox\)"
    ):
        ready(ImageFolderPool(str(tmp_path)))
    write_images(tmp_path / {"test": "val", "val": "test"}[name], 3, cat=1)
    with pytest.raises(SettingError, match="folders = train, test, val"):
        ready(ImageFolderPool(str(tmp_path)))


@real_files
def test_the_original_files_are_read():
    data = ready(MNISTPool(root=str(SHARED_DATA)))
    assert data.sample_shape == (1, 28, 28)
    assert [len(data.val), len(data.public), len(data.test)] == [5000, 1000, 10000]
    assert [len(shard) for shard in data.pool.shards] == [5400] * 10
    # Known of MNIST: pixel mean 0.1307 and the first test digits.
    assert data.pool.data.inputs.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)
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
    data = Samples(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6))
    pool = WorkerPool(data, [np.array([0, 1, 2]), np.array([3, 4, 5])], batch_size=3, seed=0)
    assert sorted(pool.batch([1], 0)[1][0].tolist()) == [3, 4, 5]
    assert pool.label_counts(6).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


def test_folders_that_cannot_be_learnt_from_are_refused(tmp_path):
    (tmp_path / "only").mkdir()
    for i in range(20):
        Image.new("RGB", (4, 4)).save(tmp_path / "only" / f"{i}.png")
    with pytest.raises(SettingError, match="at least two classes, ImageFolderPool has 1"):
        ready(ImageFolderPool(str(tmp_path)))
    with pytest.raises(SettingError, match=r"test_fraction = 0.01, samples = 20"):
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


class Own(PoolDataModule):
    """What a user writes for data that is in memory."""

    def __init__(self, data: Samples, **kwargs) -> None:
        super().__init__(pool_size=2, batch_size=2, **kwargs)
        self.data = data

    def load(self):
        return Dataset(self.data, self.data, tuple("abcd"))

    def usual_sizes(self, num_samples):
        return 4, 4


IMAGES, TABLE = torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.arange(120.0).view(40, 3)
LABELS = torch.arange(40) % 4


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (Samples(IMAGES.double(), LABELS), {}, "must be images, uint8 of shape"),
        (Samples(IMAGES[:, 0], LABELS), {}, "must be images, uint8 of shape"),
        (
            Samples(TABLE[:, 0], LABELS),
            {},
            r"or float32 or int64 of shape .*, got torch.float32 of shape \(40,\)",
        ),
        (Samples(TABLE / 0, LABELS), {}, "train inputs of a data set must be finite; 120 numbers are not"),
        (Samples(IMAGES, LABELS.int()), {}, "must be int64"),
        (Samples(IMAGES, LABELS[:39]), {}, "one for each of the 40 inputs"),
        (Samples(IMAGES, 1 + LABELS), {}, "must be 0 to 3"),
        (
            Samples(IMAGES, LABELS, groups=LABELS[:3]),
            {},
            "train groups of a data set must be int64, one for each",
        ),
        (
            Samples(TABLE, LABELS),
            {"augment": True},
            "data.augment must be false where the inputs are no images",
        ),
        (Samples(TABLE.long(), LABELS), {"standardize": True}, "data.standardize must be false where"),
        (Samples(TABLE, LABELS), {"partitioner": "IID"}, "data.partitioner must be a Partitioner, got 'IID'"),
        (Samples(TABLE, LABELS), {"partitioner": ByGroup()}, "must not be ByGroup: Own does not say whom"),
    ],
)
def test_what_a_data_set_of_ones_own_must_hold(data, settings, message):
    with pytest.raises(SettingError, match=message):
        ready(Own(data, **settings))


def test_both_parts_must_be_alike():
    class Unlike(Own):
        def load(self):
            return Dataset(self.data, Samples(TABLE[:, :2], LABELS), tuple("abcd"))

    with pytest.raises(
        SettingError, match=r"must be alike, got torch.float32 of shape \(3,\) each, and torch.float32"
    ):
        ready(Unlike(Samples(TABLE, LABELS)))


@pytest.mark.parametrize(
    ("left", "classes", "message"),
    [
        (0, None, r"^the test inputs of a data set must be at least one, got 0\.$"),
        (2, [2, 3], r"^data.classes must leave a sample of the test set, got \[2, 3\]\.$"),
    ],
)
def test_there_must_be_something_to_test_on(left, classes, message):
    class FewToTest(Own):
        def load(self):
            return Dataset(self.data, Samples(TABLE[:left], LABELS[:left]), tuple("abcd"))

    with pytest.raises(SettingError, match=message):
        ready(FewToTest(Samples(TABLE, LABELS), classes=classes))


def test_numbers_are_read_as_they_are_or_standardised():
    plain, standard = ready(Own(Samples(TABLE, LABELS))), ready(Own(Samples(TABLE, LABELS), standardize=True))
    every = torch.arange(40)
    assert torch.equal(plain.pool.data.read(every)[0], TABLE)
    assert torch.equal(plain.example, torch.zeros(1, 3))
    shards = torch.from_numpy(np.concatenate(standard.pool.shards))
    read, _ = standard.pool.data.read(shards)
    torch.testing.assert_close(read.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(read.std(0, correction=0), torch.ones(3))
    torch.testing.assert_close(
        standard.test.read(every)[0], (TABLE - TABLE[shards].mean(0)) / TABLE[shards].std(0, correction=0)
    )
    assert torch.equal(standard.pool.data.inputs, TABLE)


def test_indices_stay_indices():
    data = ready(Own(Samples(TABLE.long(), LABELS)))
    inputs, _, _ = data.pool.batch([0, 1], 0)
    assert inputs.dtype == torch.int64
    assert data.example.shape == (
        8,
        3,
    )  # the smallest and the largest of workers, validation, server and test
    assert (data.example.min(), data.example.max()) == (0, 119)
    assert as_precise(inputs, torch.float64).dtype == torch.int64


def test_arrays_of_the_user(tmp_path):
    rng = generator(0, "arrays")
    x, y, groups = rng.normal(size=(60, 3, 5)), np.arange(60) % 3, np.arange(60) // 6
    path = tmp_path / "own.npz"
    arrays = {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6]}
    settings = {"pool_size": 5, "batch_size": 2, "val_size": 9, "public_size": 3}
    np.savez(path, **arrays, group_train=groups, classes=["red", "green", "blue"])
    data = ready(ArrayPool(str(path), partitioner=ByGroup(), **settings))
    assert (data.class_names, data.sample_shape) == (("red", "green", "blue"), (3, 5))
    np.testing.assert_array_equal(data.test.inputs.numpy(), x[:6].astype(np.float32))
    held = [set(data.pool.data.groups[shard].tolist()) for shard in data.pool.shards]
    assert sum(map(len, held)) == len(set().union(*held)) == 10
    np.savez(
        path,
        **{
            **arrays,
            "x_train": np.full((60, 4, 4, 3), 7, np.uint8),
            "x_test": np.zeros((6, 4, 4, 3), np.uint8),
        },
    )
    images = ready(ArrayPool(str(path), **settings))
    assert (images.class_names, images.sample_shape) == (("0", "1", "2"), (3, 4, 4))
    assert images.pool.data.read(torch.tensor([0]))[0].unique().item() == pytest.approx(7 / 255)
    np.savez(path, **{**arrays, "x_train": np.ones((60, 4), np.int32), "x_test": np.ones((6, 4), np.int16)})
    assert ready(ArrayPool(str(path), **settings)).test.inputs.dtype == torch.int64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((4, 2))}, "without y_train, x_test, y_test"),
        (
            {"x_train": np.zeros((4, 2), np.uint8)},
            r"x_train must be images .* where it is uint8, got shape \(4, 2\)",
        ),
        ({"x_train": np.array([["a"]] * 4)}, "x_train must be numbers, got <U1"),
        ({"y_train": np.zeros(4)}, "y_train must be numbers, whole ones, got float64"),
        ({"x_train": np.array([None] * 4)}, "without Python objects"),
        ({"classes": np.array("abc")}, r"classes must be a name for each class, got shape \(\)"),
        ({"classes": np.array([["a", "b"]])}, r"classes must be a name for each class, got shape \(1, 2\)"),
        (
            {"y_train": np.array([0, 1, 2, 10**12])},
            "with the array classes where a label is as large as 1000000000000, of 8 samples",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_told(arrays, message, tmp_path):
    good = {
        "x_train": np.zeros((4, 2)),
        "y_train": np.arange(4),
        "x_test": np.zeros((4, 2)),
        "y_test": np.arange(4),
    }
    np.savez(tmp_path / "own.npz", **(arrays if message.startswith("without y") else {**good, **arrays}))
    with pytest.raises(SettingError, match=message):
        ready(ArrayPool(str(tmp_path / "own.npz")))


def test_files_that_hold_no_arrays_are_told(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(
            SettingError, match=f"data.path must be a file that numpy.savez has written.*{name}"
        ):
            ready(ArrayPool(str(tmp_path / name)))


class Pictures(torch.utils.data.Dataset):
    classes = ("dark", "light")

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return Image.new("L", (4, 3), 20 + 200 * (index % 2)), index % 2, index // 4


def test_labels_that_are_no_numbers_of_classes_are_told():
    source = TensorDataset(TABLE, 10**9 * LABELS)
    with pytest.raises(
        SettingError, match=r"data.train must have the attribute classes .* 3000000000, of 40"
    ):
        ready(DatasetPool(source, pool_size=4, batch_size=2))


def test_any_data_set_of_torch():
    settings = {"pool_size": 4, "batch_size": 2}
    data = ready(DatasetPool(Pictures(), partitioner=ByGroup(), **settings))
    assert (data.class_names, data.sample_shape, len(data.test)) == (("dark", "light"), (1, 3, 4), 8)
    assert torch.equal((data.test.inputs.float().mean(dim=(1, 2, 3)) > 128).long(), data.test.labels)
    owners = [set(data.pool.data.groups[shard].tolist()) for shard in data.pool.shards]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert identities(ready(DatasetPool(Pictures(), seed=1, **settings)).test) == identities(data.test)
    table = TensorDataset(TABLE.double(), LABELS)
    read = ready(DatasetPool(table, TensorDataset(TABLE[:5], LABELS[:5]), **settings))
    assert torch.equal(read.pool.data.inputs, TABLE)
    assert (read.class_names, len(read.test), read.test.groups) == (("0", "1", "2", "3"), 5, None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "data.train must be a data set with a length of at least 1, got list"),
        (
            [torch.zeros(3)],
            "data.train must give an input and its label, and perhaps a group, got Tensor for sample 0",
        ),
        ([(torch.zeros(3), 0), (torch.zeros(2), 1)], "inputs of one shape .*equal size"),
        ([("text", 0)], "inputs of one shape that are images or numbers"),
        ([(torch.zeros(3), "zero")], "labels that are whole numbers"),
        ([(torch.zeros(3), 0.5)], "labels that are whole numbers"),
        ([(torch.zeros(3), 0)], r"at least one sample \(test_fraction = 0.2, samples = 1\)"),
    ],
)
def test_data_sets_that_cannot_be_used_are_told(source, message):
    with pytest.raises(SettingError, match=message):
        ready(DatasetPool(source))


def test_what_is_no_data_set_is_told():
    class Pair(DigitsPool):
        def load(self):
            return super().load().train, super().load().test

    with pytest.raises(
        SettingError, match=r"^Pair.load must return a lightning_agg.data.Dataset, got tuple\.$"
    ):
        ready(Pair(pool_size=3))
