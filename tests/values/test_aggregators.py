"""Aggregators against values by hand, naive float64 implementations and ByzFL."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from aggregator_cases import context_for, honest_rows
from scipy.optimize import minimize
from torch import Tensor

from lightning_agg.aggregators import (
    CenteredClipping,
    Context,
    CoordinateMedian,
    FLTrust,
    GeometricMedian,
    Krum,
    Mean,
    MoNNA,
    MultiKrum,
    SignMajority,
    TrimmedMean,
    Zeno,
)
from lightning_agg.aggregators.linalg import combine, distances_to, squared_distances
from lightning_agg.aggregators.ranks import shares_of_ranks, values_of_ranks

WIDE = 40_000  # several blocks of columns, the last one short
COLUMN = torch.tensor([[1.0], [1.5], [1.75], [2.5], [9.0]])


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_krum_order(x: np.ndarray, neighbors: int, power: int) -> list[int]:
    scores = []
    for i in range(len(x)):
        distances = sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)
        scores.append(sum(distance**power for distance in distances[:neighbors]))
    return sorted(range(len(x)), key=lambda i: scores[i])


# Coordinate-wise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 34), 50, 100])
def test_values_of_ranks_against_sort(size: int) -> None:
    block = torch.randint(-5, 5, (size, 400), generator=torch.Generator().manual_seed(size)).float()
    expected = block.sort(dim=0).values
    assert torch.equal(values_of_ranks(block, 0, size), expected)
    for rank in range(size):
        assert torch.equal(values_of_ranks(block, rank, rank + 1)[0], expected[rank])


def test_sorting_network_sorts_all_zeros_and_ones() -> None:  # hence everything, by the 0-1 principle
    block = torch.tensor(list(itertools.product([0.0, 1.0], repeat=10))).T
    assert torch.equal(values_of_ranks(block, 0, 10), block.sort(dim=0).values)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 40])
def test_median(size: int) -> None:
    x = gaussian(size, WIDE)
    assert torch.equal(CoordinateMedian("lower")(x), x.median(dim=0).values)
    np.testing.assert_allclose(CoordinateMedian()(x), np.median(x, axis=0), rtol=1e-15)


@pytest.mark.parametrize(("size", "f"), [(3, 1), (10, 0), (10, 3), (10, 4), (31, 7)])
def test_trimmed_mean(size: int, f: int) -> None:
    x = gaussian(size, WIDE)
    np.testing.assert_allclose(TrimmedMean(f)(x), np.sort(x, axis=0)[f : size - f].mean(0), atol=1e-14)


def test_trimmed_mean_is_exact_beside_huge_values() -> None:  # a sum minus the extremes is not
    x = torch.tensor([[1e30], [1.0], [2.0], [4.0], [-1e30]])
    assert TrimmedMean(1)(x).item() == pytest.approx(7 / 3)


@pytest.mark.parametrize(("first", "last"), [(0, 7), (2, 5), (3, 4), (3, 5), (6, 7)])
def test_shares_of_ranks_against_all_orders_of_equals(first: int, last: int) -> None:
    x = torch.randint(0, 4, (7, 300), generator=torch.Generator().manual_seed(0)).float()
    expected = np.zeros(7)
    for column in x.T.numpy():
        for value in np.unique(column):
            owners = np.flatnonzero(column == value)
            ranks = np.flatnonzero(np.sort(column) == value)
            kept = ((ranks >= first) & (ranks < last)).sum()
            expected[owners] += kept / len(owners) / (last - first) / 300
    np.testing.assert_allclose(shares_of_ranks(x, first, last), expected, rtol=1e-5, atol=1e-7)


def test_influence_of_coordinate_rules_by_hand() -> None:
    x = torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 3.0], [4.0, 3.0]])
    median, lower, trimmed = (
        rule.influence(x) for rule in (CoordinateMedian(), CoordinateMedian("lower"), TrimmedMean(1))
    )
    torch.testing.assert_close(median, torch.tensor([0.0, 0.5, 0.375, 0.125]))
    torch.testing.assert_close(lower, torch.tensor([0.0, 0.5, 0.25, 0.25]))
    torch.testing.assert_close(trimmed, median)


def test_sign_majority_by_hand() -> None:
    x = torch.tensor(
        [[5.0, -1.0, 0.0, 1.0], [-1.0, -2.0, 0.0, 0.0], [2.0, 0.0, -1.0, -1.0], [0.0, 1.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(SignMajority()(x), torch.tensor([1.0, -1.0, -1.0, 0.0]))
    torch.testing.assert_close(SignMajority("positive")(x), torch.tensor([1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(SignMajority().influence(x), torch.tensor([1.0, 0.5, 1.5, 0.0]) / 4)


@pytest.mark.parametrize("size", [3, 9, 31])
def test_sign_majority_is_the_sign_of_the_median_for_odd_pools(size: int) -> None:
    x = gaussian(size, WIDE)
    assert torch.equal(SignMajority()(x), CoordinateMedian()(x).sign())


def test_sign_majority_counts_in_more_than_bfloat16() -> None:
    votes = torch.ones(601, 1, dtype=torch.bfloat16)
    votes[:300] = -1  # bfloat16 counts to 256 only
    assert SignMajority()(votes).item() == 1


# Whole rows ---------------------------------------------------------------------------------------------------


def test_mean() -> None:
    x = gaussian(7, WIDE)
    np.testing.assert_allclose(Mean()(x), x.numpy().mean(0), atol=1e-14)
    torch.testing.assert_close(Mean().influence(x), torch.full((7,), 1 / 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_of_many_long_rows(dtype: torch.dtype) -> None:  # which is taken by products
    x = torch.randn(300, 2**14, generator=torch.Generator().manual_seed(0)).add_(1).to(dtype)
    exact = x.double().mean(dim=0)
    torch.testing.assert_close(Mean()(x), exact.to(dtype))
    x[7, 5] = torch.nan
    rule = Mean()
    torch.testing.assert_close(rule(x), torch.cat([x[:7], x[8:]]).double().mean(dim=0).to(dtype))
    assert rule.num_nonfinite == 1


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.25 + 0.5625, 0.25 + 0.0625, 0.0625 + 0.5625, 0.5625 + 1.0, 42.25 + 52.5625]),
        ({"neighbors": "byzfl"}, [3.0625, 1.3125, 1.1875, 3.8125, 42.25 + 52.5625 + 56.25]),
        ({"power": 1}, [1.25, 0.75, 1.0, 1.75, 13.75]),
    ],
)
def test_krum_scores_by_hand(options: dict[str, Any], scores: list[float]) -> None:
    found = Krum(num_byzantine=1, **options).scores(COLUMN, 1)
    torch.testing.assert_close(found, torch.tensor(scores, dtype=torch.float64))


@pytest.mark.parametrize(("name", "fewer"), [("paper", 2), ("byzfl", 1)])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("size", "f", "width"), [(5, 1, 4), (10, 3, 4), (33, 9, 7), (8, 0, WIDE)])
def test_krum_and_multi_krum(name: Any, fewer: int, power: Any, size: int, f: int, width: int) -> None:
    for seed in range(5):
        x = gaussian(size, width, seed=seed)
        order = naive_krum_order(x.numpy(), size - f - fewer, power)
        assert torch.equal(Krum(f, name, power)(x), x[order[0]])
        for m in (None, 1, size - f):
            expected = x[order[: m or size - f - 2]].mean(0)
            torch.testing.assert_close(MultiKrum(f, m, name, power)(x), expected)


@pytest.mark.parametrize(
    "size", [10, 30, 60]
)  # a Gram matrix, and the default cdist from 26 rows on, fail here
def test_krum_on_close_float32_rows_of_large_norm(size: int) -> None:
    for seed in range(10):
        x = (300 + 3e-4 * gaussian(size, 100, seed=seed)).float()
        best = naive_krum_order(x.double().numpy(), size - 4, 2)[0]
        assert torch.equal(Krum(num_byzantine=2)(x), x[best])


def test_krum_takes_the_lowest_index_among_equals() -> None:
    assert Krum(num_byzantine=0).selected(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Context()).tolist() == [
        1
    ]


@pytest.mark.parametrize(("size", "width"), [(1, 3), (2, 3), (9, 5), (30, 2), (6, WIDE)])
def test_distances(size: int, width: int) -> None:
    x, point = gaussian(size, width), gaussian(width, seed=1)
    expected = np.square(x.numpy()[:, None] - x.numpy()[None]).sum(-1)
    np.testing.assert_allclose(squared_distances(x), expected, rtol=1e-12)
    np.testing.assert_allclose(distances_to(x, point), np.linalg.norm(x - point, axis=1), rtol=1e-12)


@pytest.mark.parametrize("first", [True, False])
def test_squared_distances_of_clusters_within_clusters(first: bool) -> None:
    x = 300 + gaussian(40, 30)
    x[20:30] += 1e9 * gaussian(1, 30, seed=1)
    x[25:28] = x[25] + 1e-5 * gaussian(3, 30, seed=2)
    x[30:] = 1e20 * gaussian(10, 30, seed=3)
    x[35:] = x[35]
    x = x if first else x.flip(0)
    expected = torch.nn.functional.pdist(x).square()
    i, j = torch.triu_indices(40, 40, offset=1)
    torch.testing.assert_close(squared_distances(x)[i, j], expected, rtol=1e-9, atol=0)
    assert torch.equal(squared_distances(x), squared_distances(x).T)


def test_squared_distances_beyond_float64_are_infinite() -> None:
    x = gaussian(20, 3)
    x[0], x[1] = 1.7e308, -1.7e308
    distances = squared_distances(x)
    assert (distances[0, 1:] == torch.inf).all()
    torch.testing.assert_close(distances[2:, 2:], squared_distances(x[2:]))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_distances_neither_overflow_nor_vanish(scale: float) -> None:
    x = scale * torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert squared_distances(x)[0, 1].item() == pytest.approx((5 * scale) ** 2)
    assert distances_to(x, torch.zeros(2))[1].item() == pytest.approx(4 * scale)


def test_combine_takes_bfloat16_rows_in_float32() -> None:
    x = torch.tensor([[200.0], [-200.0]], dtype=torch.bfloat16)
    assert combine(torch.tensor([0.501, 0.499]), x).item() == pytest.approx(0.4, rel=0.01)


# Geometric median ---------------------------------------------------------------------------------------------


def sum_of_distances(z: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm(x - z, axis=1).sum())


@pytest.mark.parametrize(("size", "width"), [(3, 2), (5, 2), (10, 4), (31, 3), (4, 1)])
def test_geometric_median_minimises_the_sum_of_distances(size: int, width: int) -> None:
    for seed in range(5):
        x = gaussian(size, width, seed=seed)
        found = sum_of_distances(GeometricMedian()(x).numpy(), x.numpy())
        best = minimize(
            sum_of_distances, x.numpy().mean(0), args=(x.numpy(),), method="Nelder-Mead", tol=1e-12
        )
        assert found <= best.fun + 1e-6 * size


def test_geometric_median_is_stationary_for_wide_rows_and_long_attackers() -> None:
    x = gaussian(10, WIDE) + 1
    x[:2] *= 1e6
    directions = x - GeometricMedian()(x)
    assert (directions / directions.norm(dim=1, keepdim=True)).sum(0).norm() < 2e-5


def test_geometric_median_leaves_a_row_that_is_not_optimal() -> None:
    x = torch.cat(
        [torch.zeros(1, 5), torch.eye(5)]
    ).double()  # the coordinate median is row 0, a minimum of nothing
    z = GeometricMedian()(x)
    torch.testing.assert_close(z, z[0].expand(5))
    assert sum_of_distances(z.numpy(), x.numpy()) < 4.8290 < sum_of_distances(np.zeros(5), x.numpy())


def test_geometric_median_stays_at_a_row_that_is_optimal() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [0.2, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(GeometricMedian()(x), x[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_geometric_median_of_rows_of_which_one_is_their_mean(dtype: torch.dtype) -> None:
    for seed in range(20):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows[0] = rows[1:].mean(dim=0)
        rows = rows.to(dtype).double()
        found = GeometricMedian()(rows.to(dtype)).double()
        nudged = found + 1e-3 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
        least = torch.cdist(torch.cat([rows, nudged]), rows).sum(dim=1).min()
        assert torch.linalg.vector_norm(rows - found, dim=1).sum() <= least * (1 + 1e-6)


def test_geometric_median_of_three_by_hand() -> None:  # the Fermat point of an equilateral triangle
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]], dtype=torch.float64)
    fermat = torch.tensor([1.0, 3**-0.5], dtype=torch.float64)
    torch.testing.assert_close(GeometricMedian()(x), fermat, rtol=0, atol=1e-5)
    torch.testing.assert_close(GeometricMedian(tolerance=1e-10)(x), fermat, rtol=0, atol=1e-9)


def test_geometric_median_stops_after_the_iterations_asked_for() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 5.0]], dtype=torch.float64)
    assert (GeometricMedian(iterations=2)(x) - GeometricMedian()(x)).norm() > 1e-3


def test_geometric_median_does_not_depend_on_how_far_attackers_are() -> None:  # whatever it starts from
    honest, direction = gaussian(7, 5), torch.ones(5, dtype=torch.float64)
    near, far = (GeometricMedian()(torch.cat([honest, r * direction.expand(3, -1)])) for r in (1e9, 1e11))
    torch.testing.assert_close(near, far, rtol=1e-6, atol=1e-6)
    beside = GeometricMedian()(torch.cat([honest, 3e3 * direction.expand(3, -1)]))
    torch.testing.assert_close(near, beside, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("others", "by_passes"),
    [
        (gaussian(100, 30, seed=1) + 30, True),
        (1e6 * gaussian(100, 30, seed=1), True),
        (gaussian(1, 30, seed=1).expand(100, -1), True),  # one row, but the others pull it off
        (gaussian(1, 30, seed=1).expand(400, -1), True),  # one row, and it is the median
        (
            1e20 * gaussian(1, 30, seed=1).expand(100, -1),
            False,
        ),  # too far to come back from in a few iterations
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_geometric_median_of_many_rows_is_that_of_the_inner_products(
    others: Tensor, by_passes: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat([gaussian(500, 30) + 0.3, others]).to(dtype)
    rule = GeometricMedian()
    assert (rule._by_passes(x) is not None) == by_passes
    found, influence = rule(x), rule.influence(x)
    monkeypatch.setattr("lightning_agg.aggregators.geometric_median.MANY", 10**6)
    torch.testing.assert_close(found, rule(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(influence, rule.influence(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [401, 1000])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_geometric_median_of_many_rows_stands_attackers_in_few_iterations(
    size: int, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = GeometricMedian(iterations=iterations)
    x = gaussian(size, 20).float()
    x[: rule.breakdown_point(size)] = 1e20
    found = rule(x)
    monkeypatch.setattr("lightning_agg.aggregators.geometric_median.MANY", 10**6)
    torch.testing.assert_close(found, rule(x), rtol=1e-4, atol=1e-4)
    assert found.norm() < 30


def test_geometric_median_gives_a_float64_row_beyond_squaring_no_weight() -> None:
    x = honest_rows(dtype=torch.float64)
    x[3] = 1e200
    assert GeometricMedian()(x).sub(1).norm() < 1
    assert GeometricMedian().influence(x)[3] == 0


# Centered clipping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, WIDE])
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping_over_rounds(iterations: int, width: int) -> None:
    radius = width**0.5
    aggregator, center = CenteredClipping(radius, iterations), np.zeros(width)
    for seed in range(3):
        x = gaussian(6, width, seed=seed) + 2
        start, weights = center, aggregator.influence(x).double().numpy()
        for _ in range(iterations):
            steps = [(row - center) * min(1, radius / np.linalg.norm(row - center)) for row in x.numpy()]
            center = center + sum(steps) / 6
        np.testing.assert_allclose(aggregator(x), center, atol=1e-12)
        np.testing.assert_allclose(weights @ x.numpy() + (1 - weights.sum()) * start, center, atol=1e-5)


def test_centered_clipping_moves_by_radius_towards_a_huge_row() -> None:
    assert CenteredClipping(radius=2.0)(torch.tensor([[1e30, 0.0]])).tolist() == pytest.approx([2.0, 0.0])


def test_centered_clipping_without_clipping_is_the_mean() -> None:
    x = gaussian(5, 3)
    torch.testing.assert_close(CenteredClipping(radius=1e6)(x), x.mean(0))


# Zeno ---------------------------------------------------------------------------------------------------------


def context_with_losses(losses: list[float], asked: list[int] | None = None) -> Context:
    def public_losses(parameters: Tensor, num_samples: int) -> Tensor:
        if asked is not None:
            asked.append(num_samples)
        return torch.tensor(losses)

    return Context(parameters=lambda: torch.zeros(2), public_losses=public_losses)


ROWS = torch.tensor([[1.0, 0.0], [0.0, 4.0], [2.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"rho": 0.0}, [0.5, 1.0, 0.25, -1.0]),
        ({"rho": 0.125}, [0.375, -1.0, -0.25, -1.125]),
        ({"rho": 0.125, "penalty": "mean_square"}, [0.4375, 0.0, 0.0, -1.0625]),
    ],
)
def test_zeno_scores_by_hand(options: dict[str, Any], scores: list[float]) -> None:
    asked: list[int] = []
    context = context_with_losses([2.0, 1.5, 1.0, 1.75, 3.0], asked)
    zeno = Zeno(num_byzantine=2, num_samples=7, **options)
    torch.testing.assert_close(zeno.scores(ROWS, context).float(), torch.tensor(scores))
    best = sorted(range(4), key=lambda i: -scores[i])[:2]
    torch.testing.assert_close(zeno(ROWS, context), ROWS[best].mean(0))
    assert asked == [7, 7]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_zeno_ranks_nonfinite_losses_last(bad: float) -> None:
    context = context_with_losses([2.0, bad, 3.0, 1e6, bad])
    torch.testing.assert_close(Zeno(2)(ROWS, context), ROWS[[1, 2]].mean(0))


def test_zeno_tries_a_step_of_its_size() -> None:
    tried = []
    context = Context(
        parameters=lambda: torch.tensor([1.0, 1.0]),
        public_losses=lambda parameters, num_samples: tried.append(parameters) or parameters.sum(dim=1),
    )
    Zeno(0, step_size=0.5)(ROWS, context)
    assert torch.equal(tried[0], torch.tensor([[1, 1], [0.5, 1], [1, -1], [0, 1], [1, 0.5]]))


def test_zeno_stands_a_byzantine_majority() -> None:
    x = honest_rows(10)
    x[1:8] *= -1
    assert (Zeno(7)(x, context_for(x)) - x[[0, 8, 9]].mean(0)).norm() < 1e-6


# Peer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 0), (20, 8)])
def test_against_byzfl(size: int, f: int) -> None:
    byzfl = pytest.importorskip("byzfl")
    x = gaussian(size, 60).float()
    pairs = [
        (Mean(), byzfl.Average()),
        (CoordinateMedian(), byzfl.Median()),
        (TrimmedMean(f), byzfl.TrMean(f)),
        (Krum(f, neighbors="byzfl"), byzfl.Krum(f)),
        (MultiKrum(f, size - f, neighbors="byzfl"), byzfl.MultiKrum(f)),
        (CenteredClipping(5.0, 3), byzfl.CenteredClipping(L=3, tau=5.0)),
    ]
    for ours, theirs in pairs:
        for rows in (x, x + 1):  # two rounds
            torch.testing.assert_close(
                ours(rows), theirs(rows), msg=lambda text, rule=ours: f"{rule}: {text}"
            )
    objective = sum_of_distances(GeometricMedian()(x).numpy(), x.numpy())
    assert objective <= sum_of_distances(byzfl.GeometricMedian(nu=1e-6, T=5)(x).numpy(), x.numpy()) + 1e-4


def test_a_worker_who_sends_next_to_nothing_does_not_stop_fl_trust():
    rows = torch.ones(10, 4)
    rows[0] *= 1e-40
    context = Context(public_gradient=lambda n: torch.ones(4))
    assert torch.allclose(FLTrust()(rows, context), torch.ones(4))


def test_monna_trusts_its_worker_whoever_takes_part():
    rule, rows = MoNNA(1, reference=2), torch.tensor([[1e9], [1.0], [2.0], [3.0]])
    present = Context(pool_size=10, workers=torch.tensor([0, 2, 5, 8]))
    assert rule(rows, present).item() == 2.0
    absent = Context(pool_size=10, workers=torch.tensor([9, 5, 6, 7]))
    assert rule(rows, absent).item() == 2.0  # nearest to the median, 2.5


def test_centered_clipping_adds_up_steps_too_short_for_the_rows_dtype() -> None:
    rule, x = CenteredClipping(radius=0.01), torch.full((4, 1), 10.0)
    for _ in range(1100):
        center = rule(x.bfloat16())
    assert center.dtype == torch.bfloat16
    assert center.item() == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("scale", [1e-23, 1e19, 1e28])
@pytest.mark.parametrize("size", [5, 30])
def test_distances_of_float32_rows_whose_squares_it_does_not_hold(scale: float, size: int) -> None:
    x = (scale * torch.randn(size, 7, generator=torch.Generator().manual_seed(0))).float()
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(x), exact, rtol=1e-5, atol=0.0)


def test_influence_leaves_the_count_of_dropped_rows() -> None:
    rule, x = CoordinateMedian(), torch.ones(3, 2)
    rule(x)
    x[0] = torch.nan
    rule.influence(x)
    assert rule.num_nonfinite == 0
