"""Breakdown points by hand."""

import pytest
import torch
from aggregator_cases import CASES, bucketing_multi_krum, clipping_mean, mixing_trimmed_mean
from torch.nn import functional as F

from lightning_agg.aggregators import (
    Aggregator,
    Context,
    CoordinateMedian,
    DnC,
    FLTrust,
    GeometricMedian,
    Krum,
    LossWeightedMean,
    Mean,
    PreAggregated,
    SignMajority,
    TrimmedMean,
    Zeno,
)
from lightning_agg.preaggregators import AdaptiveClipping, Bucketing, NearestNeighborMixing


@pytest.mark.parametrize(
    ("rule", "pool_size", "number"),
    [
        (Mean(), 10, 0),
        (CoordinateMedian(), 10, 4),
        (CoordinateMedian("lower"), 11, 5),
        (GeometricMedian(), 1, 0),
        (SignMajority(), 4, 1),
        (TrimmedMean(2), 10, 2),
        (Krum(3), 10, 3),
        (Zeno(9), 10, 9),
        (FLTrust(), 10, 9),
        (DnC(0), 10, 0),
        (DnC(2), 10, None),
        (clipping_mean(), 10, 9),
        (mixing_trimmed_mean(3), 10, 3),
        (bucketing_multi_krum(1), 10, 1),  # of five buckets
        (PreAggregated([NearestNeighborMixing(2)], CoordinateMedian()), 10, 2),
        (PreAggregated([NearestNeighborMixing(4)], TrimmedMean(1)), 10, 1),
        (PreAggregated([AdaptiveClipping(3)], Mean()), 10, 4),  # floor(2 * 3 * 7 / 10) are clipped
        (PreAggregated([AdaptiveClipping(1)], CoordinateMedian()), 10, 4),
        (PreAggregated([Bucketing(2)], CoordinateMedian()), 9, 2),  # of five
        (PreAggregated([AdaptiveClipping(1), Bucketing(5)], DnC(0)), 10, 1),
        (PreAggregated([AdaptiveClipping(2)], DnC(1)), 10, None),
    ],
    ids=str,
)
def test_by_hand(rule: Aggregator, pool_size: int, number: int | None) -> None:
    assert rule.breakdown_point(pool_size) == number


def test_a_rule_that_is_told_a_number_stands_it_at_least() -> None:
    told = [case.make() for case in CASES if hasattr(case.make(), "num_byzantine") and not case.one_direction]
    assert len(told) > 10
    assert all(rule.breakdown_point(18) == rule.num_byzantine for rule in told)


def test_a_loss_that_does_not_see_the_distance_gives_no_breakdown_point():
    rules = [LossWeightedMean(), Zeno(3, rho=0.0)]
    assert [rule.breakdown_point(10) for rule in rules] == [None, None]
    assert Zeno(3).breakdown_point(10) == 3
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), torch.randint(3, (64,), generator=generator)

    def loss(v):
        return F.cross_entropy(x @ v[:15].view(5, 3) + v[15:], y)

    context = Context(
        parameters=lambda: torch.zeros(18),
        public_losses=lambda rows, num_samples: torch.stack([loss(row) for row in rows]),
    )
    gradient = torch.autograd.functional.jacobian(loss, torch.zeros(18))
    rows = gradient + 0.02 * torch.randn(10, 18, generator=generator)
    rows[9] = gradient
    rows[9, 15:] += 1e5  # the same to all biases: no output's share changes
    assert all(rule(rows, context).norm() > 1000 for rule in rules)
    assert Zeno(3)(rows, context).norm() < 1
