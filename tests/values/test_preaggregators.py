"""Pre-aggregators against naive float64 code, values by hand and ByzFL."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_agg.aggregators import Context, Mean, MoNNA, PreAggregated
from lightning_agg.errors import SettingError
from lightning_agg.preaggregators import (
    AdaptiveClipping,
    Bucketing,
    NearestNeighborMixing,
    NormClipping,
    PreAggregator,
)

WIDE = 40_000


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "f", "width"), [(5, 2, 3), (10, 3, WIDE), (31, 7, 20), (4, 0, 5), (1, 0, 2)]
)
def test_nearest_neighbor_mixing(size: int, f: int, width: int) -> None:
    x = gaussian(size, width)
    rows = x.numpy()
    nearest = [np.argsort(np.linalg.norm(rows - row, axis=1))[: size - f] for row in rows]
    expected = np.stack([rows[chosen].mean(0) for chosen in nearest])
    np.testing.assert_allclose(NearestNeighborMixing(f)(x), expected, atol=1e-13)


def test_nearest_neighbor_mixing_includes_the_row_itself_among_equals() -> None:
    x = torch.ones(7, 2)
    assert NearestNeighborMixing(3).weights(x, Context()).diagonal().gt(0).all()


@pytest.mark.parametrize("size", [10, 30, 60])
def test_nearest_neighbor_mixing_on_close_float32_rows_of_large_norm(size: int) -> None:
    x = (300 + 3e-4 * gaussian(size, 100)).float()
    exact = NearestNeighborMixing(size // 5)(x.double())
    ulp = 300 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(NearestNeighborMixing(size // 5)(x).double(), exact, rtol=0, atol=3 * ulp)


@pytest.mark.parametrize(("size", "bucket_size"), [(10, 3), (10, 5), (10, 1), (4, 9), (1, 2)])
def test_every_row_is_in_one_bucket(size: int, bucket_size: int) -> None:
    seen = set()
    for index in range(20):
        weights = Bucketing(bucket_size).weights(gaussian(size, 2), Context(round=index))
        members = weights > 0
        assert members.sum(dim=0).tolist() == [1] * size
        filled = [bucket_size] * (size // bucket_size) + [size % bucket_size] * (size % bucket_size > 0)
        assert members.sum(dim=1).tolist() == filled
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(filled), dtype=torch.float64))
        seen.add(str(members))
    assert len(seen) == (1 if size == 1 or bucket_size >= size else len(seen))
    assert bucket_size >= size or len(seen) > 10


def test_buckets_are_spread_evenly() -> None:
    together = torch.zeros(6, 6)
    for seed in range(600):
        members = (Bucketing(2).weights(torch.zeros(6, 1), Context(seed=seed)) > 0).float()
        together += members.T @ members
    assert together.diagonal().eq(600).all()
    others = together[~torch.eye(6, dtype=torch.bool)]
    assert ((others - 120).abs() < 40).all()  # 4 standard deviations


def test_norm_clipping() -> None:
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-3e30, 4e30]])
    expected = torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 0.0], [-1.2, 1.6]])
    torch.testing.assert_close(NormClipping(2.0)(x), expected)


@pytest.mark.parametrize("scale", [1e160, 1e200, 1e307])
def test_clipping_of_rows_whose_squares_overflow(scale: float) -> None:
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [-3 * scale, 4 * scale]], dtype=torch.float64)
    clipped = torch.tensor([-3.0, 4.0], dtype=torch.float64)
    for rule, length in ((NormClipping(2.0), 2.0), (AdaptiveClipping(1), 5.0)):
        torch.testing.assert_close(rule(x)[2], clipped * length / 5)
        torch.testing.assert_close(rule.weights(x, Context()) @ x, rule(x))


@pytest.mark.parametrize(
    ("size", "f", "clipped"), [(10, 3, 4), (10, 0, 0), (7, 3, 3), (3, 1, 1), (50, 12, 18)]
)
def test_adaptive_clipping(size: int, f: int, clipped: int) -> None:
    x = gaussian(size, 9)
    rows = x.numpy()
    lengths = np.linalg.norm(rows, axis=1)
    bound = np.sort(lengths)[size - 1 - clipped]
    expected = rows * np.minimum(1, bound / lengths)[:, None]
    np.testing.assert_allclose(AdaptiveClipping(f)(x), expected, atol=1e-13)


@pytest.mark.parametrize(("size", "f"), [(10, 3), (11, 0), (20, 8)])
def test_against_byzfl(size: int, f: int) -> None:
    byzfl = pytest.importorskip("byzfl")
    x = gaussian(size, 60).float()
    for ours, theirs in [
        (NearestNeighborMixing(f), byzfl.NNM(f)),
        (NormClipping(7.0), byzfl.Clipping(7.0)),
        (AdaptiveClipping(f), byzfl.ARC(f)),
    ]:
        torch.testing.assert_close(ours(x), theirs(x.clone()), msg=lambda text, rule=ours: f"{rule}: {text}")


class Doubled(PreAggregator):
    def weights(self, gradients, context):
        return 2 * torch.eye(len(gradients))


def test_a_row_dropped_before_a_step_and_one_after_it():
    rows = torch.ones(6, 2)
    rows[1], rows[3] = torch.nan, 3e38
    rule = PreAggregated([Doubled()], Mean())
    assert rule(rows).tolist() == [2.0, 2.0]
    assert rule.influence(rows).tolist() == pytest.approx([0.5, 0, 0.5, 0, 0.5, 0.5])


@pytest.mark.parametrize("size", [1, 2])
def test_a_rule_that_knows_a_worker_wants_its_row(size):
    with pytest.raises(SettingError, match="MoNNA remembers workers"):
        PreAggregated([Bucketing(size)], MoNNA(1)).check(10)
    PreAggregated([NearestNeighborMixing(1)], MoNNA(1)).check(10)


def test_rows_of_nobody_have_no_workers():
    told = []

    class Told(Mean):
        spreads_nonfinite = False

        def forward(self, gradients, context):
            told.append((context.finite, context.workers, context.pool_size, context.num_dropped))
            return super().forward(gradients, context)

    rows = torch.ones(6, 2)
    rows[4] = torch.inf
    context = Context(workers=torch.arange(6) + 3, pool_size=12)
    PreAggregated([Bucketing(2)], Told())(rows, context)
    PreAggregated([NearestNeighborMixing(1)], Told())(rows, context)
    assert told[0] == (None, None, None, 1)
    assert told[1][0].tolist() == [True] * 4 + [False, True]
    assert told[1][1].tolist() == list(range(3, 9))
    assert told[1][2:] == (12, 1)


class Swelling(PreAggregator):
    """Rows of 1 stay; larger ones overflow."""

    keeps_workers = True

    def weights(self, gradients, context):
        return torch.diag(torch.where(gradients[:, 0] > 1, 1e30, 1.0))


def test_who_is_left_after_rows_were_dropped_twice():
    told = []

    class Told(Mean):
        spreads_nonfinite = False

        def forward(self, gradients, context):
            told.append(context.finite.tolist())
            return super().forward(gradients, context)

    rows = torch.ones(6, 2)
    rows[1], rows[3] = torch.nan, 1e20
    assert PreAggregated([Swelling()], Told())(rows).tolist() == [1.0, 1.0]
    assert told == [[True, False, True, False, True, True]]
