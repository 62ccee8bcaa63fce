"""The values nearest to a center, Meamed, Phocas and Bulyan, against naive float64 code, values by hand and ByzFL."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_agg.aggregators import Bulyan, Meamed, Phocas
from lightning_agg.aggregators.bulyan import repeated_krum
from lightning_agg.aggregators.linalg import squared_distances
from lightning_agg.aggregators.nearest import mean_of_nearest, median, shares_of_nearest

WIDE = 40_000


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_nearest(x: np.ndarray, count: int, lower: bool = False) -> np.ndarray:
    ordered = np.sort(x, axis=0)
    median = ordered[(len(x) - 1) // 2] if lower else np.median(x, axis=0)
    order = np.argsort(np.abs(ordered - median), axis=0, kind="stable")
    return np.take_along_axis(ordered, order[:count], axis=0).mean(0)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 2), (5, 3), (10, 7), (10, 3), (11, 2), (33, 17)])
def test_mean_of_nearest(size: int, count: int, lower: bool) -> None:
    x = gaussian(size, WIDE if size == 10 else 300)
    expected = naive_nearest(x.numpy(), count, lower)
    np.testing.assert_allclose(
        mean_of_nearest(x, count, median("lower" if lower else "midpoint")), expected, atol=1e-13
    )


def test_mean_of_nearest_takes_the_smaller_of_two_equally_far() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]])
    assert mean_of_nearest(x, 2, median()).item() == 0.5
    assert shares_of_nearest(x, 2, median()).tolist() == [0.5, 0.5, 0.0]


def test_mean_of_nearest_is_exact_beside_huge_values() -> None:
    x = torch.tensor([[3e38], [1.0], [2.0], [4.0], [-3e38]])
    assert Meamed(2)(x).item() == pytest.approx(7 / 3)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_shares_of_nearest_with_ties(count: int) -> None:
    x = torch.randint(0, 4, (7, 300), generator=torch.Generator().manual_seed(0)).float()
    expected = np.zeros(7)
    for column in x.T.numpy():
        ordered = np.sort(column)
        ranks = np.argsort(np.abs(ordered - np.median(column)), kind="stable")[:count]
        for rank in ranks:
            owners = np.flatnonzero(column == ordered[rank])
            expected[owners] += 1 / len(owners) / count / 300
    np.testing.assert_allclose(shares_of_nearest(x, count, median()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 5), (7, 0)])
def test_meamed(size: int, f: int) -> None:
    x = gaussian(size, WIDE)
    np.testing.assert_allclose(Meamed(f)(x), naive_nearest(x.numpy(), size - f), atol=1e-13)
    lower = naive_nearest(x.numpy(), size - f, lower=True)
    np.testing.assert_allclose(Meamed(f, "lower")(x), lower, atol=1e-13)


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 4), (8, 0)])
def test_meamed_against_byzfl(size: int, f: int) -> None:
    byzfl = pytest.importorskip("byzfl")
    x = gaussian(size, 2000)
    lower = size % 2 == 1  # torch.median, which ByzFL takes of tensors, is the lower one
    theirs = byzfl.Meamed(f)(x.numpy())
    np.testing.assert_allclose(Meamed(f, "lower" if lower else "midpoint")(x), theirs, atol=1e-6)


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 5), (7, 0), (60, 20)])
def test_phocas(size: int, f: int) -> None:
    x = gaussian(size, WIDE if size < 12 else 300).exp()  # not symmetric, so that mean and median differ
    ordered = np.sort(x.numpy(), axis=0)
    center = ordered[f : size - f].mean(0)
    order = np.argsort(np.abs(ordered - center), axis=0, kind="stable")
    expected = np.take_along_axis(ordered, order[: size - f], axis=0).mean(0)
    np.testing.assert_allclose(Phocas(f)(x), expected, atol=1e-13)


def test_phocas_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [6.0], [7.0]])
    assert Meamed(2)(x).item() == 1  # around 2: 0, 1, 2
    assert Phocas(1)(x).item() == pytest.approx(9 / 4)  # around 3: all but 7
    assert Phocas(1).influence(x).tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]


# Bulyan -------------------------------------------------------------------------------------------------------


def naive_picks(x: np.ndarray, f: int) -> list[int]:
    left, picks = list(range(len(x))), []
    while len(picks) < len(x) - 2 * f:
        count = max(len(left) - f - 2, 1)
        scores = [sum(sorted(np.square(x[i] - x[j]).sum() for j in left if j != i)[:count]) for i in left]
        picks.append(left.pop(int(np.argmin(scores))))
    return picks


@pytest.mark.parametrize(("size", "f"), [(7, 1), (10, 1), (11, 2), (23, 5), (40, 2)])
def test_bulyan(size: int, f: int) -> None:
    for seed in range(4):
        x = gaussian(size, 9, seed=seed)
        picks = naive_picks(x.numpy(), f)
        assert repeated_krum(squared_distances(x), size - 2 * f, f).tolist() == picks
        expected = naive_nearest(x[picks].numpy(), size - 4 * f)
        np.testing.assert_allclose(Bulyan(f)(x), expected, atol=1e-13)
        weights = Bulyan(f).influence(x)
        assert weights.sum().item() == pytest.approx(1)
        assert sorted(weights.nonzero()[:, 0].tolist()) == sorted(
            set(weights.nonzero()[:, 0].tolist()) & set(picks)
        )


def test_bulyan_without_attackers_is_the_mean() -> None:
    x = gaussian(5, 40)
    torch.testing.assert_close(Bulyan(0)(x), x.mean(0))


def test_bulyan_hides_no_coordinate() -> None:  # what fools Krum: one row far off in a single coordinate
    x = 1 + 0.1 * gaussian(11, 1000)
    x[0] = x[1:].mean(0)
    x[0, 0] = 2.0
    assert abs(Bulyan(2)(x)[0].item() - 1) < 0.2
