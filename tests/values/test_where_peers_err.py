"""Inputs on which other libraries are wrong, each beside an exact reference and what ours gives.

The docstrings are the list in docs/where_others_err.md; the versions are those of constraints.txt. A test that fails with
a newer version is good news: drop it.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from aggregator_cases import honest_rows
from torch import Tensor

from lightning_agg.aggregators import (
    CAF,
    SMEA,
    Aggregator,
    CenteredClipping,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
)
from lightning_agg.attacks import Infinity, InnerProduct, LineSearch
from lightning_agg.preaggregators import AdaptiveClipping, NormClipping


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """They draw from the global generators."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        yield
    np.random.set_state(state)


@pytest.fixture
def byzfl() -> Any:
    return pytest.importorskip("byzfl")


@pytest.fixture
def jd() -> Any:
    return pytest.importorskip("torchjd.aggregation")


def with_attackers(
    value: float, size: int = 10, number: int = 3, dtype: torch.dtype = torch.float32
) -> Tensor:
    rows = honest_rows(size, dtype=dtype)
    rows[:number] = value
    return rows


def near_honest(vector: Tensor) -> bool:
    return bool((vector - 1).abs().max() < 0.5)


def exact_krum(rows: Tensor, neighbors: int) -> int:
    """The row of the lowest sum of squared distances to its nearest others, in rational numbers."""
    x = [[Fraction(value) for value in row] for row in rows.double().tolist()]
    squares = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in x] for p in x]
    scores = [sum(sorted(row)[1 : neighbors + 1]) for row in squares]
    return scores.index(min(scores))


# Rules --------------------------------------------------------------------------------------------------------


def test_byzfl_krum_far_from_the_origin(byzfl: Any) -> None:
    """ByzFL `Krum`: from 26 float32 rows on, distances come from inner products, which cancel
    when the rows share a large part. Of 30 rows around 300 that lie 3e-4 apart, `Krum` returns another than the best."""
    wrong = 0
    for seed in range(3):
        noise = torch.randn(30, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows = (300 + 3e-4 * noise).float()
        best = rows[exact_krum(rows, neighbors=27)]
        assert torch.equal(Krum(2, neighbors="byzfl")(rows), best)
        wrong += not torch.equal(byzfl.Krum(2)(rows), best)
    assert wrong >= 2


def test_torchjd_krum_of_close_rows(jd: Any) -> None:
    """TorchJD `Krum`: distances come from the Gramian at every number of rows. Of 8 float32 rows around 1 that lie 1e-4
    apart, it returns another than the best."""
    wrong = 0
    for seed in range(5):
        noise = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows = (1 + 1e-4 * noise).float()
        lengths = (rows.double()[:, None] - rows.double()).norm(dim=-1)  # of exact differences
        best = rows[lengths.sort(dim=1).values[:, 1:5].sum(dim=1).argmin()]
        assert torch.equal(Krum(2, power=1)(rows), best)
        wrong += not torch.equal(jd.Krum(2)(rows), best)
    assert wrong >= 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_torchjd_krum_beside_one_bad_row(jd: Any, value: float) -> None:
    """TorchJD `Krum`: one row of NaN or infinity, of 8, makes the aggregate NaN."""
    rows = with_attackers(value, 8, 1)
    assert jd.Krum(1)(rows).isnan().all()
    assert near_honest(Krum(1)(rows))


def test_byzfl_krum_returns_a_row_of_nan(byzfl: Any) -> None:
    """ByzFL `Krum`: returns the NaN row that an attacker sent, since its score is NaN and `argmin` takes it for the
    smallest."""
    rows = with_attackers(torch.nan)
    assert byzfl.Krum(3)(rows.clone()).isnan().all()
    assert near_honest(Krum(3)(rows))


def test_byzfl_krum_returns_a_row_of_infinity(byzfl: Any) -> None:
    """ByzFL `Krum`: returns a row of infinities among 30 float32 rows; the inner products make NaN of them."""
    rows = with_attackers(torch.inf, 30)
    assert not byzfl.Krum(3)(rows.clone()).isfinite().all()
    assert near_honest(Krum(3)(rows))


def test_byzfl_rules_beside_nan(byzfl: Any) -> None:
    """ByzFL `Median`, `Meamed`, `GeometricMedian`: one row of NaN makes the aggregate NaN, of arrays and tensors."""
    rows = with_attackers(torch.nan, number=1)
    for theirs, ours in [
        (byzfl.Median(), CoordinateMedian()),
        (byzfl.Meamed(1), Meamed(1)),
        (byzfl.GeometricMedian(), GeometricMedian()),
    ]:
        assert theirs(rows.clone()).isnan().all()
        assert np.isnan(theirs(rows.numpy().copy())).all()
        assert near_honest(ours(rows))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_byzfl_centered_clipping_never_recovers(byzfl: Any, value: float) -> None:
    """ByzFL `CenteredClipping`: one row of NaN or infinity makes the aggregate NaN, and that of every later round."""
    theirs, ours = byzfl.CenteredClipping(tau=20.0), CenteredClipping(20.0)
    rows = with_attackers(value, number=1)
    for rule in (theirs, ours):
        rule(rows.clone())
    assert theirs(honest_rows()).isnan().all()
    assert near_honest(ours(honest_rows()))


def test_byzfl_centered_clipping_takes_no_start(byzfl: Any) -> None:
    """ByzFL `CenteredClipping`: its argument `m` is refused, tensor or array: the check asks for both at once."""
    for start in (torch.zeros(2), np.zeros(2)):
        with pytest.raises(TypeError, match="m must be of type"):
            byzfl.CenteredClipping(m=start)


def test_byzfl_geometric_median_depends_on_the_origin(byzfl: Any) -> None:
    """ByzFL `GeometricMedian`: three iterations from zero, by default. Of 1000, 1000, 1000, 2000 and 3000 it finds 1156;
    the geometric median of numbers is their median, 1000."""
    rows = torch.tensor([[1000.0], [1000.0], [1000.0], [2000.0], [3000.0]])
    assert byzfl.GeometricMedian()(rows.clone()).item() > 1100
    assert GeometricMedian()(rows).item() == pytest.approx(1000, abs=1e-2)


@pytest.mark.parametrize(
    ("rows", "f"),
    [(honest_rows(8), 0), (torch.ones(8, 3), 2), (with_attackers(torch.nan), 3)],
    ids=["f0", "same", "nan"],
)
def test_byzfl_caf_returns_none(byzfl: Any, rows: Tensor, f: int) -> None:
    """ByzFL `CAF`: returns `None` for `f = 0` (its default), for identical rows and for a row of NaN."""
    assert byzfl.CAF(f)(rows.clone()) is None
    assert near_honest(CAF(f)(rows))


def test_byzfl_caf_does_not_end(byzfl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ByzFL `CAF`: does not end for 3 equal rows of 1e6 among 10. Rows whose weight is 0 still set the scale by which the
    others are turned down, by factors that float32 rounds to 1."""

    class Endless(Exception):  # noqa: N818
        pass

    draws, randn = iter(range(300)), torch.randn

    def counted(*args: Any, **kwargs: Any) -> Tensor:  # it draws once an iteration
        if next(draws, None) is None:
            raise Endless
        return randn(*args, **kwargs)

    rows = with_attackers(1e6)
    monkeypatch.setattr(torch, "randn", counted)
    with pytest.raises(Endless):
        byzfl.CAF(3)(rows.clone())
    monkeypatch.undo()
    assert near_honest(CAF(3)(rows))


def least_spread(rows: np.ndarray, f: int) -> np.ndarray:
    """The mean of the best of all subsets, by the eigenvalues of their covariances."""
    subsets = [list(kept) for kept in combinations(range(len(rows)), len(rows) - f)]
    return rows[min(subsets, key=lambda kept: np.linalg.eigvalsh(np.cov(rows[kept].T))[-1])].mean(axis=0)


def test_byzfl_smea_is_not_the_best_subset(byzfl: Any) -> None:
    """ByzFL `SMEA`: finds the subset of least spread in some calls only, since one power iteration from a random vector
    stands for the eigenvalue; the same rows give different aggregates."""
    rows = honest_rows(8, 6, dtype=torch.float64)
    best = least_spread(rows.numpy(), 2)
    np.testing.assert_allclose(SMEA(2)(rows), best)
    found = [byzfl.SMEA(2)(rows.numpy().copy()) for _ in range(12)]
    assert any(np.abs(vector - best).max() > 1e-3 for vector in found)
    assert len({tuple(vector) for vector in found}) > 1


def test_byzfl_smea_beside_huge_rows(byzfl: Any) -> None:
    """ByzFL `SMEA`: 3 float32 rows of 1e20 among 10 are averaged in: their squares overflow."""
    rows = with_attackers(1e20)
    assert byzfl.SMEA(3)(rows.clone()).abs().max() > 1e18
    assert near_honest(SMEA(3)(rows))


def test_byzfl_draws_from_the_global_generator(byzfl: Any) -> None:
    """ByzFL `SMEA`, `CAF`, `Bucketing`: draw from the global generator, so that another rule also means other batches."""
    for rule in (byzfl.SMEA(1), byzfl.CAF(1), byzfl.Bucketing(2)):
        before = torch.get_rng_state()
        rule(honest_rows(5))
        assert not torch.equal(torch.get_rng_state(), before)
    before = torch.get_rng_state()
    for ours in (SMEA(1), CAF(1)):
        ours(honest_rows(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_byzfl_computes_in_float32(byzfl: Any) -> None:
    """ByzFL, every rule on tensors: float64 becomes float32, against its documentation; the mean of 1e300 is infinite."""
    rows = torch.full((3, 2), 1e300, dtype=torch.float64)
    theirs = byzfl.Average()(rows)
    assert theirs.dtype == torch.float32
    assert theirs.isinf().all()
    assert torch.equal(Mean()(rows), rows[0])


# Before the rule ----------------------------------------------------------------------------------------------


def test_byzfl_clipping_overwrites_its_input(byzfl: Any) -> None:
    """ByzFL `Clipping`, `ARC`: shorten the rows of the caller's float32 tensor in place."""
    for theirs, ours in [(byzfl.Clipping(2.0), NormClipping(2.0)), (byzfl.ARC(3), AdaptiveClipping(3))]:
        rows = with_attackers(1e6)
        before = rows.clone()
        ours(rows)
        assert torch.equal(rows, before)
        theirs(rows)
        assert not torch.equal(rows, before)


def test_byzfl_clipping_of_infinity(byzfl: Any) -> None:
    """ByzFL `Clipping`: makes NaN of a row with an infinity, and lets a row of NaN pass."""
    for value in (torch.inf, torch.nan):
        rows = with_attackers(value, number=1)
        assert byzfl.Clipping(10.0)(rows.clone()).isnan().any()
        assert NormClipping(10.0)(rows).isfinite().all()


def test_byzfl_arc_rounds_its_count(byzfl: Any) -> None:
    """ByzFL `ARC`: counts the rows to clip by a floating product. With `f = 33` of 242 it clips 56 rows instead of
    2 · 33 · 209 / 242 = 57."""
    rows = torch.arange(1.0, 243)[:, None]
    assert Fraction(2 * 33 * (242 - 33), 242) == 57
    assert torch.equal(AdaptiveClipping(33)(rows), rows.clamp(max=242 - 57))
    assert torch.equal(byzfl.ARC(33)(rows.clone()), rows.clamp(max=242 - 56))


# Attacks and settings -----------------------------------------------------------------------------------------


def test_byzfl_search_disturbs_a_rule_with_memory(byzfl: Any) -> None:
    """ByzFL `Optimal_InnerProductManipulation`, `Optimal_ALittleIsEnough`: each trial of a rule with memory is a round to
    it. One search leaves `CenteredClipping` far from zero, where it would start."""
    theirs = byzfl.CenteredClipping(tau=1.0)
    byzfl.Optimal_InnerProductManipulation(agg=theirs, pre_agg_list=[], f=2)(honest_rows(8))
    assert theirs.m.norm() > 1
    ours: Aggregator = CenteredClipping(1.0)
    LineSearch(InnerProduct(), ours)(honest_rows(8), honest_rows(2))
    assert all(buffer.numel() == 0 for buffer in ours.memory().values())


def test_byzfl_searches_share_their_default(byzfl: Any) -> None:
    """ByzFL `Optimal_*`: clip the rows by default, to a length of 2, whatever the server does before its rule."""
    attack = byzfl.Optimal_InnerProductManipulation()
    assert [type(step) for step in attack.pre_agg_list] == [byzfl.Clipping]


def test_byzfl_infinity_is_float64(byzfl: Any) -> None:
    """ByzFL `Inf`: answers float32 rows with float64."""
    rows = honest_rows(4)
    assert byzfl.Inf()(rows).dtype == torch.float64
    assert Infinity()(rows, rows[:1]).dtype == torch.float32


def test_byzfl_drops_a_misspelt_parameter(byzfl: Any) -> None:
    """ByzFL `RobustAggregator`: a misspelt parameter is dropped without a word: `TrMean` with `F: 2` trims nothing. Our
    command line refuses it, for ByzFL's own rules too."""
    from byzfl.fed_framework.robust_aggregator import RobustAggregator

    rule = RobustAggregator({"name": "TrMean", "parameters": {"F": 2}})
    assert rule.aggregator.f == 0


def test_byzfl_takes_true_for_one_and_refuses_ten(byzfl: Any) -> None:
    """ByzFL's checks of settings: `f=True` passes, and `tau=10` is refused because it is no float."""
    assert byzfl.TrMean(f=True).f is True
    with pytest.raises(ValueError, match="tau must be a non-negative float"):
        byzfl.CenteredClipping(tau=10)
    assert CenteredClipping(radius=10).radius == 10
