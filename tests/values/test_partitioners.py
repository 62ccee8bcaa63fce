"""Partitions against facts found by hand, on real labels where it matters."""

from pathlib import Path

import numpy as np
import pytest
from partitioner_cases import labels

from lightning_agg.errors import SettingError
from lightning_agg.partitioners import (
    IID,
    ByLabel,
    Dirichlet,
    GammaSimilarity,
    LabelShards,
    Partitioner,
    QuantitySkew,
    WorkerDirichlet,
)
from lightning_agg.partitioners.dealing import deal_by_shares, equal_sizes, fill_from_largest

DATA = Path(__file__).parents[2] / "../shared/data"
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.fixture(scope="module")
def mnist():
    if not DATA.exists():
        pytest.skip(f"no folder {DATA}")
    raw = (DATA / "MNIST/raw/train-labels-idx1-ubyte").read_bytes()
    return np.frombuffer(raw, dtype=np.uint8, offset=8)


def held(shards, targets):
    return [sorted(set(targets[shard].tolist())) for shard in shards]


def test_by_label_one_class_each(mnist):
    shards = ByLabel(seed=0)(mnist, 10)
    assert held(shards, mnist) == [[digit] for digit in range(10)]
    assert [len(shard) for shard in shards] == MNIST_COUNTS


@pytest.mark.parametrize(
    ("pool_size", "classes"),
    [
        (5, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
        (3, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (7, [[0, 1], [2, 3], [4, 5], [6], [7], [8], [9]]),
        (12, [[0], [0], [1], [1], [2], [3], [4], [5], [6], [7], [8], [9]]),
        (20, [[digit] for digit in range(10) for _ in range(2)]),
    ],
)
def test_by_label_is_exclusive(mnist, pool_size, classes):
    shards = ByLabel(seed=0)(mnist, pool_size)
    assert held(shards, mnist) == classes
    if pool_size == 20:
        assert [len(shard) for shard in shards[:4]] == [2962, 2961, 3371, 3371]


def test_by_label_counts_only_classes_that_are_present():
    targets = np.array([7, 2, 7, 2, 2])
    assert [shard.tolist() for shard in ByLabel()(targets, 2)] == [[1, 3, 4], [0, 2]]


def test_label_shards_of_mcmahan(mnist):
    shards = LabelShards(seed=0)(mnist, 100)
    assert {len(shard) for shard in shards} == {600}
    numbers = [len(digits) for digits in held(shards, mnist)]
    assert max(numbers) <= 4  # a piece of 300 straddles 2 digits at most
    assert sum(number <= 2 for number in numbers) >= 85  # only 9 of 200 pieces straddle two
    assert sum(number == 1 for number in numbers) < 30  # the two pieces are dealt at random
    assert sum(numbers) <= 2 * 100 + 9


@pytest.mark.parametrize("shards_per_worker", [1, 2, 3])
def test_label_shards_hold_at_most_so_many_labels_when_pieces_fit_classes(shards_per_worker):
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 60))  # pieces of 60, 30 or 20
    shards = LabelShards(shards_per_worker, seed=1)(targets, 6)
    assert {len(shard) for shard in shards} == {60}
    assert max(len(digits) for digits in held(shards, targets)) <= shards_per_worker


def test_iid_looks_like_the_whole(mnist):
    shards = IID(seed=0)(mnist, 10)
    for shard in shards:
        counts = np.bincount(mnist[shard], minlength=10)
        expected = np.array(MNIST_COUNTS) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 33.7  # chi-square of 9 degrees, p = 1e-4


def test_gamma_sorts_the_rest(mnist):
    shards = GammaSimilarity(gamma=0.0, seed=0)(mnist, 10)
    heads = [(int(mnist[shard].min()), int(mnist[shard].max())) for shard in shards]
    # 6000 each of the sorted digits: cumulative counts 5923, 12665, 18623, 24754, 30596, 36017, 41935, 48200, 54051
    assert heads == [(0, 1), (1, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 7), (7, 7), (7, 8), (8, 9)]


def test_gamma_is_the_fraction_that_is_iid():
    targets = np.repeat(np.arange(10), 1000)
    shards = GammaSimilarity(gamma=0.4, seed=0)(targets, 10)
    own = [float(np.mean(targets[shard] == worker)) for worker, shard in enumerate(shards)]
    # 600 sorted ones of the worker's own class (neighbours where a class lost more to the shuffle), and 40 of 400
    assert np.mean(own) == pytest.approx(0.64, abs=0.03)


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    # Var of a share of Dir_M(alpha): (1/M)(1 - 1/M) / (M alpha + 1)
    targets, pool_size, alpha = np.repeat(np.arange(200), 300), 5, 0.5
    shards = Dirichlet(alpha, seed=0)(targets, pool_size)
    shares = np.stack([np.bincount(targets[shard], minlength=200) for shard in shards]) / 300
    assert shares.mean() == pytest.approx(0.2)
    assert shares.var() == pytest.approx(0.2 * 0.8 / (pool_size * alpha + 1), rel=0.15)


def test_worker_dirichlet_mixtures_have_the_moments_of_the_distribution():
    # Var of a share of Dir_C(alpha p), p uniform: (1/C)(1 - 1/C) / (alpha + 1), no C in the last factor;
    # 100 draws from the mixture add what is left of p(1-p), over 100.
    targets, classes, alpha = np.repeat(np.arange(4), 25_000), 4, 8.0
    shards = WorkerDirichlet(alpha, seed=0)(targets, 1000)
    shares = np.stack([np.bincount(targets[shard], minlength=4) for shard in shards]) / 100
    whole = 1 / classes * (1 - 1 / classes)
    assert shares.var() == pytest.approx(whole / (alpha + 1) + whole * alpha / (alpha + 1) / 100, rel=0.1)


def test_the_two_alphas_differ():
    targets = np.repeat(np.arange(10), 600)

    def largest_share(partitioner):
        shards = partitioner(targets, 20)
        return np.mean([np.bincount(targets[shard]).max() / len(shard) for shard in shards])

    assert largest_share(WorkerDirichlet(1.0, seed=0)) > largest_share(Dirichlet(1.0, seed=0)) + 0.2
    assert largest_share(WorkerDirichlet(1.0, seed=0)) == pytest.approx(
        largest_share(Dirichlet(0.1, seed=0)), abs=0.12
    )


def test_worker_dirichlet_prior_is_the_frequency_of_the_labels():
    targets = labels(10_000)
    shards = WorkerDirichlet(alpha=1e6, seed=0)(targets, 5)
    whole = np.bincount(targets) / len(targets)
    # the last of 5 workers gets what the others leave, with twice the deviation of a multinomial draw
    tolerance = 4 * 2 * np.sqrt(whole * (1 - whole) / 2000)
    for shard in shards:
        assert bool((np.abs(np.bincount(targets[shard], minlength=10) / 2000 - whole) < tolerance).all())


@pytest.mark.parametrize("alpha", [1e-300, 1e-8, 1e6, 1e300])
@pytest.mark.parametrize("partitioner", [Dirichlet, WorkerDirichlet, QuantitySkew])
def test_extreme_alphas(partitioner, alpha):
    shards = partitioner(alpha, min_size=2, seed=0)(labels(500), 9)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(500))
    assert min(map(len, shards)) >= 2


def test_tiny_alpha_gives_each_class_to_one_worker():
    targets = np.repeat(np.arange(10), 100)
    shards = Dirichlet(1e-6, seed=0)(targets, 3)
    assert sum(len(digits) for digits in held(shards, targets)) == 10
    # 5 workers of 200 samples want one class of 100 each: every class is handed out whole
    shards = WorkerDirichlet(1e-6, seed=0)(targets, 5)
    assert [len(digits) for digits in held(shards, targets)] == [2] * 5


def test_quantity_skew_draws_sizes_not_labels():
    targets = np.repeat(np.arange(2), 5000)
    shards = QuantitySkew(1.0, seed=0)(targets, 10)
    sizes = np.array([len(shard) for shard in shards])
    assert sizes.max() > 3 * sizes.min()
    for shard in shards:
        assert targets[shard].mean() == pytest.approx(0.5, abs=2 / len(shard) ** 0.5)


def test_equal_sizes_and_shares():
    assert equal_sizes(10, 4).tolist() == [3, 3, 2, 2]
    assert equal_sizes(0, 3).tolist() == [0, 0, 0]
    pieces = deal_by_shares(np.arange(10), np.array([0.25, 0.0, 0.5, 0.25]))
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2], [], [3, 4, 5, 6, 7], [8, 9]]


def test_filling_levels_the_largest_and_moves_no_more_than_needed():
    shards = [np.arange(0, 10), np.arange(10, 11), np.arange(11, 20), np.arange(20, 24)]
    rng = np.random.default_rng(0)
    filled = fill_from_largest(shards, 5, rng)
    # sizes 10, 1, 9, 4: five samples are missing; the two large shards give 3 and 2
    assert [len(shard) for shard in filled] == [7, 5, 7, 5]
    assert sorted(np.concatenate(filled).tolist()) == list(range(24))
    assert set(filled[0]) <= set(shards[0])
    assert set(filled[1]) >= set(shards[1])
    assert set(filled[3]) >= set(shards[3])
    for before, after in zip(shards, fill_from_largest(shards, 1, rng), strict=True):
        assert set(before) == set(after)


def test_filling_draws_who_gives_what_to_whom():
    shards = [np.arange(0, 10), np.arange(10, 11), np.arange(11, 20), np.arange(20, 24)]
    results = [fill_from_largest(shards, 5, np.random.default_rng(seed)) for seed in range(100)]
    given = [set(result[1]) - set(shards[1]) for result in results]
    assert set().union(*given) == {*shards[0], *shards[2]}
    gift_to_the_last = {int(sample) for result in results for sample in set(result[3]) - set(shards[3])}
    assert gift_to_the_last & set(shards[0].tolist())
    assert gift_to_the_last & set(shards[2].tolist())


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (np.array([0.0, 1.0]), "an array of float64"),
        (np.array([[0, 1]]), r"an array of int64 of shape \(1, 2\)"),
        (np.array([0, 10]), "indices from 0 to 10: they must be below 10"),
        (np.array([-1, 3]), "indices from -1 to 3"),
    ],
)
def test_shards_must_hold_indices(shard, message):
    class Own(Partitioner):
        def split(self, labels, pool_size, rng):
            return [np.array([0]), shard]

    with pytest.raises(SettingError, match=f"Own gives worker 1 {message}"):
        Own()(np.zeros(10, dtype=int), 2)


def test_a_split_that_returns_nothing_is_told():
    class Own(Partitioner):
        def split(self, labels, pool_size, rng):
            pass

    with pytest.raises(SettingError, match=r"^Own.split must return 2 arrays of indices, got NoneType\.$"):
        Own()(np.zeros(10, dtype=int), 2)


def test_a_constructor_of_ones_own_need_not_call_that_of_the_base():
    class Own(Partitioner):
        def __init__(self, step):
            self.step = step

        def split(self, labels, pool_size, rng):
            return [np.arange(worker, len(labels), self.step) for worker in range(pool_size)]

    assert [len(shard) for shard in Own(2)(np.zeros(10, dtype=int), 2)] == [5, 5]


def test_a_sample_belongs_to_one_worker_unless_the_class_says_otherwise():
    class Overlapping(Partitioner):
        def split(self, labels, pool_size, rng):
            return [np.arange(3, 10), *[np.arange(worker, worker + 1) for worker in range(1, pool_size)]]

    with pytest.raises(
        SettingError, match=r"Overlapping must give each sample to one worker.*sample 3 is given 2 times"
    ):
        Overlapping()(np.zeros(12), 4)
    Overlapping.disjoint = False
    assert [len(shard) for shard in Overlapping()(np.zeros(12), 4)] == [7, 1, 1, 1]


def test_many_small_classes_favour_no_worker():
    labels = np.repeat(np.arange(1000), 3)
    even = [len(shard) for shard in Dirichlet(alpha=1e6, seed=0)(labels, 10)]
    assert max(even) < 360
    assert min(even) > 240
    drawn = [[len(shard) for shard in Dirichlet(alpha=1.0, seed=seed)(labels, 10)] for seed in range(20)]
    assert np.mean(drawn, axis=0) == pytest.approx(300, abs=20)


def test_an_offset_decides_where_a_cut_is_rounded():
    halves = np.array([0.5, 0.5])
    assert [len(piece) for piece in deal_by_shares(np.arange(3), halves, 0.4)] == [1, 2]
    assert [len(piece) for piece in deal_by_shares(np.arange(3), halves, 0.6)] == [2, 1]
