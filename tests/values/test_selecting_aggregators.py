"""Rules that choose or weight whole rows, against brute force, values by hand and ByzFL."""

import itertools

import numpy as np
import pytest
import torch
from aggregator_cases import context_for, honest_rows
from torch import Tensor

from lightning_agg.aggregators import (
    CAF,
    CGE,
    SMEA,
    Bulyan,
    Context,
    DnC,
    FLTrust,
    MinimumDiameterAveraging,
    MoNNA,
    PreAggregated,
)
from lightning_agg.aggregators.linalg import norms, squared_distances
from lightning_agg.aggregators.smallest_diameter import smallest_diameter_subset
from lightning_agg.aggregators.spectrum import centred_gram, spread, top_direction
from lightning_agg.preaggregators import NearestNeighborMixing

WIDE = 40_000


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean = weights @ x / weights.sum()
    return (x - mean).T @ np.diag(weights / weights.sum()) @ (x - mean)


# Minimum diameter ---------------------------------------------------------------------------------------------


def by_brute_force(x: np.ndarray, size: int) -> tuple[int, ...]:
    distances = np.square(x[:, None] - x[None]).sum(-1)

    def descending(subset: tuple[int, ...]) -> list[float]:
        return sorted((distances[i, j] for i, j in itertools.combinations(subset, 2)), reverse=True)

    return min(itertools.combinations(range(len(x)), size), key=descending)


@pytest.mark.parametrize(("size", "f"), [(3, 1), (7, 3), (10, 1), (10, 3), (11, 5), (13, 4)])
@pytest.mark.parametrize("width", [1, 2, 50])
def test_minimum_diameter_against_brute_force(size: int, f: int, width: int) -> None:
    for seed in range(15):
        x = gaussian(size, width, seed=seed)
        expected = list(by_brute_force(x.numpy(), size - f))
        assert smallest_diameter_subset(squared_distances(x), size - f) == expected
        torch.testing.assert_close(MinimumDiameterAveraging(f)(x), x[expected].mean(0))


@pytest.mark.parametrize(("size", "f"), [(8, 3), (10, 4)])
def test_minimum_diameter_with_ties_against_brute_force(size: int, f: int) -> None:
    for seed in range(30):
        x = torch.randint(0, 3, (size, 2), generator=torch.Generator().manual_seed(seed)).double()
        distances = squared_distances(x)
        found = smallest_diameter_subset(distances, size - f)
        best = list(by_brute_force(x.numpy(), size - f))
        assert len(set(found)) == size - f
        assert distances[found][:, found].max() == distances[best][:, best].max()


def test_minimum_diameter_keeps_the_lowest_indices_among_equals() -> None:
    assert smallest_diameter_subset(torch.zeros(9, 9), 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("size", "f", "width"), [(50, 10, 1000), (50, 10, 2), (100, 20, 1000), (300, 3, 5)])
def test_minimum_diameter_of_large_pools(size: int, f: int, width: int) -> None:
    x = gaussian(size, width)
    distances = squared_distances(x)
    found = smallest_diameter_subset(distances, size - f)
    diameter = distances[found][:, found].max()
    # Certificate: at a smaller diameter, disjoint forbidden pairs or a brute-force search would need more than f rows.
    beyond = distances >= diameter
    degrees = beyond.sum(dim=1)
    assert len(found) == size - f
    forced = int((degrees > f).sum())
    rest = beyond & (degrees <= f) & (degrees <= f)[:, None]
    assert not covers(rest.numpy(), f - forced)


def covers(edges: np.ndarray, budget: int) -> bool:
    """Whether ``budget`` vertices touch all edges, by the plainest branching: one end of any edge must go."""
    if budget < 0:
        return False
    if edges.sum() // 2 > budget * edges.sum(0).max(initial=0):
        return False
    if not edges.any():
        return True
    vertex = edges.sum(0).argmax()
    neighbors = np.flatnonzero(edges[vertex])
    for group in ([vertex], neighbors):
        left = edges.copy()
        left[group] = left[:, group] = False
        if covers(left, budget - len(group)):
            return True
    return False


def test_minimum_diameter_drops_colluders_at_one_point() -> None:
    x = honest_rows(50)
    x[:10] = 5.0
    torch.testing.assert_close(MinimumDiameterAveraging(10)(x), x[10:].mean(0))


# Nearest to a trusted row, shortest rows ----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "f", "width"), [(5, 2, 3), (10, 3, WIDE), (31, 0, 4)])
def test_monna_and_cge(size: int, f: int, width: int) -> None:
    x = gaussian(size, width)
    for reference in (0, size - 1):
        order = np.argsort(np.linalg.norm(x - x[reference], axis=1))
        expected = x[order[: size - f]].mean(0)
        torch.testing.assert_close(MoNNA(f, reference)(x), expected)
    shortest = np.argsort(np.linalg.norm(x, axis=1))[: size - f]
    torch.testing.assert_close(CGE(f)(x), x[shortest].mean(0))


def test_monna_trusts_the_same_worker_when_others_are_dropped() -> None:
    x = torch.tensor([[torch.nan], [1.0], [5.0], [5.5], [2.0]])
    assert MoNNA(2, reference=2)(x).item() == pytest.approx((5 + 5.5 + 2) / 3)
    assert MoNNA(2, reference=2).influence(x).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])
    x[2] = torch.inf  # the median, 2, stands in
    assert MoNNA(2, reference=2)(x).item() == pytest.approx((1 + 2 + 5.5) / 3)
    x[0] = 4.4
    assert MoNNA(2, reference=2)(x).item() == pytest.approx((1 + 2 + 4.4) / 3)


def test_monna_knows_its_row_behind_a_step() -> None:
    x = torch.tensor([[torch.nan], [1.0], [1.0], [9.0], [9.0]])
    rule = PreAggregated([NearestNeighborMixing(2)], MoNNA(2, reference=4))
    assert rule(x).item() == pytest.approx(MoNNA(1, reference=3)(NearestNeighborMixing(1)(x[1:])).item())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms(scale: float) -> None:
    x = (scale * gaussian(4, WIDE)).float()
    np.testing.assert_allclose(norms(x), np.linalg.norm(x.double(), axis=1), rtol=1e-12)


# Spread -------------------------------------------------------------------------------------------------------


def test_spread_of_weighted_rows() -> None:
    x, weights = gaussian(8, 5), np.array([0.5, 0.0, 1.0, 1.0, 0.1, 0.3, 1.0, 0.2])
    share, distances = weights / weights.sum(), spread(x)
    gram = centred_gram(distances, share)
    centred = x.numpy() - share @ x.numpy()
    np.testing.assert_allclose(gram, centred @ centred.T, atol=1e-12)
    largest, projections = top_direction(distances, share)
    values, vectors = np.linalg.eigh(covariance(x.numpy(), weights))
    np.testing.assert_allclose(largest, values[-1])
    np.testing.assert_allclose(projections, (centred @ vectors[:, -1]) ** 2, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_top_direction_of_many_rows(scale: float) -> None:  # by Lanczos' method
    x = scale * gaussian(300, 400)
    largest, projections = top_direction(spread(x), np.full(300, 1 / 300))
    centred = (x - x.mean(dim=0)).numpy()
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(largest, values[0] ** 2 / 300)
    np.testing.assert_allclose(projections, (centred @ vectors[0]) ** 2, atol=1e-9 * largest)


@pytest.mark.parametrize(("size", "f", "width"), [(6, 2, 3), (10, 3, 40), (9, 4, 2), (7, 0, 3)])
def test_smea_tries_all_subsets(size: int, f: int, width: int) -> None:
    for seed in range(5):
        x = gaussian(size, width, seed=seed)
        subsets = list(itertools.combinations(range(size), size - f))
        spreads = [np.linalg.eigvalsh(np.atleast_2d(np.cov(x[list(s)].numpy().T)))[-1] for s in subsets]
        expected = x[list(subsets[int(np.argmin(spreads))])].mean(0)
        torch.testing.assert_close(SMEA(f)(x), expected)


def test_smea_beyond_its_limit_leaves_outliers_out() -> None:
    x = honest_rows(60, 200)
    x[:12] = 3 * honest_rows(12, 200, seed=1)
    torch.testing.assert_close(SMEA(12)(x), x[12:].mean(0))


def naive_caf(x: np.ndarray, f: int) -> np.ndarray:
    weights, best, smallest = np.ones(len(x)), x.mean(0), np.inf
    while weights.sum() > len(x) - 2 * f:
        values, vectors = np.linalg.eigh(covariance(x, weights))
        mean = weights @ x / weights.sum()
        if values[-1] < smallest:
            best, smallest = mean, values[-1]
        squares = ((x - mean) @ vectors[:, -1]) ** 2
        weights = np.maximum(weights * (1 - squares / squares[weights > 0].max()), 0)
    return best


@pytest.mark.parametrize(("size", "f"), [(10, 3), (10, 0), (21, 10), (5, 1)])
def test_caf(size: int, f: int) -> None:
    for seed in range(5):
        x = gaussian(size, 6, seed=seed)
        x[:f] += 3
        np.testing.assert_allclose(CAF(f)(x), naive_caf(x.numpy(), f), atol=1e-9)


def test_caf_of_equal_rows_and_one_far_away() -> None:
    x = torch.ones(4, 2)
    x[0] = 1e20
    assert CAF(1)(x).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [10, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_caf_takes_copies_out_together(size: int, dtype: torch.dtype) -> None:  # whatever their last bits are
    f = size // 3
    for seed in range(20):
        honest = gaussian(size - f, 6, seed=seed) + 1
        x = torch.cat([honest, (-10 * honest.mean(0)).expand(f, -1)]).to(dtype)
        order, (turn, _) = gaussian(size, seed=seed).argsort(), torch.linalg.qr(gaussian(6, 6).to(dtype))
        torch.testing.assert_close(CAF(f)(x[order]), CAF(f)(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(CAF(f)(x @ turn) @ turn.T, CAF(f)(x), rtol=0, atol=1e-5)


def test_dnc_by_hand() -> None:
    x = gaussian(10, 30)
    x[2:5] += 4
    centred = (x - x.mean(0)).numpy()
    scores = (centred @ np.linalg.svd(centred)[2][0]) ** 2
    kept = np.argsort(scores)[:7]
    torch.testing.assert_close(DnC(3)(x), x[kept].mean(0))
    torch.testing.assert_close(DnC(3, filter_fraction=0.4)(x), x[np.argsort(scores)[:9]].mean(0))


def test_dnc_draws_coordinates_by_seed_and_round() -> None:
    x = gaussian(20, 3000)
    rule = DnC(5, num_coordinates=20, num_iterations=1)
    chosen = {
        (seed, index): tuple(rule.selected(x, Context(seed=seed, round=index)).tolist())
        for seed in range(3)
        for index in range(3)
    }
    assert len(set(chosen.values())) > 5
    state = torch.get_rng_state()
    assert tuple(rule.selected(x, Context(seed=1, round=2)).tolist()) == chosen[1, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_dnc_is_never_left_without_rows() -> None:
    rule = DnC(4, num_coordinates=5, num_iterations=50)
    for seed in range(5):
        assert len(rule.selected(gaussian(9, 1000, seed=seed), Context())) >= 1


# FLTrust ------------------------------------------------------------------------------------------------------


def trusting(reference: Tensor, asked: list[int] | None = None) -> Context:
    def public_gradient(num_samples: int) -> Tensor:
        if asked is not None:
            asked.append(num_samples)
        return reference

    return Context(public_gradient=public_gradient)


@pytest.mark.parametrize("width", [3, WIDE])
def test_fltrust(width: int) -> None:
    x, reference, asked = gaussian(6, width) + 0.5, gaussian(width, seed=1) + 0.5, []
    rows, server = x.numpy(), reference.numpy()
    lengths = np.linalg.norm(rows, axis=1)
    trust = np.maximum(rows @ server / lengths / np.linalg.norm(server), 0)
    expected = (trust / lengths) @ rows * np.linalg.norm(server) / trust.sum()
    rule = FLTrust(num_samples=7)
    np.testing.assert_allclose(rule(x, trusting(reference, asked)), expected, atol=1e-12)
    np.testing.assert_allclose(rule.influence(x, trusting(reference)), trust / trust.sum(), rtol=1e-5)
    assert (asked, rule.public_samples) == ([7], 7)


@pytest.mark.parametrize("reference", [[-1.0, 0.0], [0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0]])
def test_fltrust_takes_no_step_when_it_trusts_nobody(reference: list[float]) -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    context = trusting(torch.tensor(reference))
    assert torch.equal(FLTrust()(x, context), torch.zeros(2))
    assert torch.equal(FLTrust().influence(x, context), torch.zeros(3))


def test_fltrust_stands_a_byzantine_majority() -> None:
    x = honest_rows()
    x[1:] *= -1e20
    assert (FLTrust()(x, context_for(x)) - x[0]).norm() < 0.2


# Peer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 0), (8, 2)])
def test_against_byzfl(size: int, f: int) -> None:
    byzfl = pytest.importorskip("byzfl")
    for seed in range(5):
        x = gaussian(size, 60, seed=seed).float()
        torch.testing.assert_close(MoNNA(f, 1)(x), byzfl.MoNNA(f, 1)(x))
        subset = byzfl.MDA(f)(x)
        if not torch.allclose(
            subset, MinimumDiameterAveraging(f)(x), atol=1e-5
        ):  # another of the same diameter
            distances = squared_distances(x)
            ours = smallest_diameter_subset(distances, size - f)
            theirs = next(
                s
                for s in itertools.combinations(range(size), size - f)
                if torch.allclose(x[list(s)].mean(0), subset, atol=1e-5)
            )
            assert distances[ours][:, ours].max() == distances[list(theirs)][:, list(theirs)].max()


@pytest.mark.parametrize("rule", [MinimumDiameterAveraging(1), SMEA(1), CAF(1), MoNNA(1), CGE(1), DnC(1)])
def test_float64_rows_beyond_squaring_are_left_out(rule) -> None:
    x = honest_rows(dtype=torch.float64)
    x[3] = 1e200
    assert rule(x).sub(1).norm() < 1
    assert rule.influence(x)[3] == 0


def test_dnc_draws_other_coordinates_each_time() -> None:
    drawn = []

    class Drawing(DnC):
        def _drawn(self, gradients, context, iteration):
            found = super()._drawn(gradients, context, iteration)
            drawn.append(found)
            return found

    Drawing(2, num_coordinates=20, num_iterations=3)(gaussian(8, 200))
    assert len(drawn) == 3
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_bulyan_picks_no_row_twice_where_scores_overflow() -> None:
    x = torch.tensor([[1.0], [1.1], [1.2], [1.3], [1.4], [1e200], [-1e200]], dtype=torch.float64)
    near = x.clamp(-1e30, 1e30)
    assert torch.equal(Bulyan(1).influence(x), Bulyan(1).influence(near))
    assert Bulyan(1).influence(x).sum() == pytest.approx(1)
    assert Bulyan(1)(x).item() == pytest.approx(1.2)


def test_smea_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(9, 30)
    whole = SMEA(3)(x)
    monkeypatch.setattr("lightning_agg.aggregators.smea.CHUNK", 100)
    assert torch.equal(SMEA(3)(x), whole)
