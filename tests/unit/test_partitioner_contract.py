"""What holds for every partitioner."""

import random
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from partitioner_cases import CASES, PartitionerCase, label_skew, labels

from lightning_agg import partitioners
from lightning_agg.errors import SettingError
from lightning_agg.partitioners import (
    IID,
    ByGroup,
    ByLabel,
    Dirichlet,
    GammaSimilarity,
    LabelShards,
    Partitioner,
    QuantitySkew,
    WorkerDirichlet,
)

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SIZES = pytest.mark.parametrize(
    ("number", "num_classes", "pool_size"),
    [(500, 10, 10), (503, 10, 7), (500, 10, 1), (600, 3, 13), (300, 1, 4), (211, 10, 3)],
)


def subclasses(base):
    return {base, *(deep for child in base.__subclasses__() for deep in subclasses(child))}


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_subclass_has_a_case_and_is_exported():
    children = subclasses(Partitioner) - {Partitioner}
    ours = {child for child in children if child.__module__.startswith("lightning_agg.")}
    assert {type(case.make()) for case in CASES} == ours
    assert {child.__name__ for child in ours} <= set(partitioners.__all__)


@every
@SIZES
def test_disjoint_exhaustive_sorted(case: PartitionerCase, number, num_classes, pool_size):
    shards = case.make(seed=5)(labels(number, num_classes), pool_size)
    assert len(shards) == pool_size
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(number))
    for shard in shards:
        assert shard.dtype == np.int64
        assert bool((np.diff(shard) > 0).all())
    if case.equal:
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@every
def test_reproducible(case: PartitionerCase):
    partitioner, targets = case.make(seed=5), labels(500)
    first = partitioner(targets, 20)
    assert same(partitioner(targets, 20), first)
    assert same(case.make(seed=5)(targets, 20), first)
    assert same(case.make(seed=5)(torch.from_numpy(targets), 20), first)
    assert np.array_equal(targets, labels(500))


@every
def test_own_seed(case: PartitionerCase, monkeypatch):
    targets = labels(500)
    assert not same(case.make(seed=5)(targets, 20), case.make(seed=6)(targets, 20))
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert same(case.make()(targets, 20), case.make(seed=5)(targets, 20))
    assert same(case.make(seed=6)(targets, 20), case.make(seed=6)(targets, 20))
    first = case.make(seed=6)(targets, 20)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert same(case.make(seed=6)(targets, 20), first)
    assert not same(case.make()(targets, 20), case.make(seed=5)(targets, 20))


@every
def test_global_generators_are_left_alone(case: PartitionerCase):
    def state():
        name, keys, *rest = np.random.get_state()
        return torch.random.get_rng_state().tolist(), random.getstate(), (name, keys.tolist(), rest)

    before = state()
    case.make(seed=0)(labels(200), 5)
    assert state() == before


@every
def test_min_size_is_kept_or_refused(case: PartitionerCase):
    targets = labels(400)
    for seed in range(10):
        if case.fills or case.equal:
            assert min(map(len, case.make(min_size=40, seed=seed)(targets, 10))) == 40
            assert min(map(len, case.make(min_size=17, seed=seed)(targets, 10))) >= 17
        elif case.make in (ByLabel, ByGroup):  # class 0 has fewer than 17 samples
            with pytest.raises(
                SettingError, match=r"By\w+ gives worker \d a shard of \d+ samples, .*min_size = 17"
            ):
                case.make(min_size=17, seed=seed)(targets, 10)
        else:
            assert min(map(len, case.make(min_size=40, seed=seed)(targets, 10))) == 40


@every
def test_too_many_workers_are_refused(case: PartitionerCase):
    with pytest.raises(SettingError, match=r"pool_size = 41, min_size = 10, samples = 400"):
        case.make(min_size=10)(labels(400), 41)
    with pytest.raises(SettingError, match=r"data.pool_size must be at least 1, got 0"):
        case.make()(labels(400), 0)


@every
def test_mnist_takes_well_under_a_second(case: PartitionerCase):
    targets = labels(60_000)
    start = time.process_time()
    case.make(seed=0)(targets, 100)
    assert time.process_time() - start < 1


def levels(make, values):
    return [
        np.mean([label_skew(make(value, seed)(labels(4000), 20), labels(4000)) for seed in range(5)])
        for value in values
    ]


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda alpha, seed: Dirichlet(alpha, seed=seed), [1e-3, 0.1, 1.0, 10.0, 1000.0]),
        (lambda alpha, seed: WorkerDirichlet(alpha, seed=seed), [1e-3, 1.0, 10.0, 100.0, 10_000.0]),
        (lambda gamma, seed: GammaSimilarity(gamma, seed=seed), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (lambda shards, seed: LabelShards(shards, seed=seed), [1, 2, 4, 8, 64]),
    ],
    ids=["dirichlet", "worker-dirichlet", "gamma", "shards"],
)
def test_label_skew_falls_as_the_setting_grows(make, values):
    skews = levels(make, values)
    assert all(higher > lower + 0.02 for higher, lower in pairwise(skews)), skews
    assert skews[0] > 0.6
    assert skews[-1] < 0.15


def test_quantity_skew_grows_as_alpha_falls():
    def spread(alpha):
        return np.mean(
            [np.std([len(s) for s in QuantitySkew(alpha, seed=seed)(labels(4000), 20)]) for seed in range(5)]
        )

    spreads = [spread(alpha) for alpha in (0.01, 0.1, 1.0, 10.0, 1000.0)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 500
    assert spreads[-1] < 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IID(min_size=0), "partitioner.min_size must be at least 1, got 0"),
        (lambda: Dirichlet(alpha=0.0), "Dirichlet.alpha must be a finite number above 0, got 0.0"),
        (
            lambda: WorkerDirichlet(alpha=-1.0),
            "WorkerDirichlet.alpha must be a finite number above 0, got -1.0",
        ),
        (
            lambda: QuantitySkew(alpha=float("nan")),
            "QuantitySkew.alpha must be a finite number above 0, got nan",
        ),
        (
            lambda: GammaSimilarity(gamma=1.5),
            "GammaSimilarity.gamma must be at least 0 and at most 1, got 1.5",
        ),
        (
            lambda: GammaSimilarity(gamma=-0.1),
            "GammaSimilarity.gamma must be at least 0 and at most 1, got -0.1",
        ),
        (lambda: LabelShards(shards_per_worker=0), "LabelShards.shards_per_worker must be at least 1, got 0"),
        (
            lambda: LabelShards(shards_per_worker=5)(labels(40), 10),
            r"\(pool_size = 10, shards_per_worker = 5, samples = 40\)",
        ),
        (lambda: ByLabel()(np.zeros(5, dtype=int), 6), "pool_size = 6, min_size = 1, samples = 5"),
        (lambda: ByLabel()(np.array([0, 1, 1, 1, 1]), 4), "ByLabel gives worker 1 a shard of 0 samples"),
    ],
)
def test_errors_name_setting_rule_and_value(call, message):
    with pytest.raises(SettingError, match=message):
        call()


def test_groups_stay_together_and_are_dealt_at_random():
    groups = labels(400, num_classes=23)
    for pool_size in (1, 5, 23):
        held = [set(groups[shard]) for shard in ByGroup(seed=1)(groups, pool_size)]
        assert len(set().union(*held)) == sum(map(len, held)) == 23
        assert max(map(len, held)) - min(map(len, held)) <= 1
    first, second = (ByGroup(seed=seed)(groups, 23) for seed in (1, 2))
    assert [set(groups[shard]) for shard in first] != [set(groups[shard]) for shard in second]
    assert [groups[shard[0]] for shard in first] != sorted(set(groups))
