"""Agreement with ByzFL and TorchJD on generated rows, wherever theirs is right.

ByzFL gets float64 arrays, which it computes with as they are (of tensors it makes float32). Rows where a choice hangs on a
tie are left out: each library breaks ties in its own way. Where theirs is wrong: test_where_peers_err.py.
"""

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from aggregator_cases import context_for, honest_rows

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_agg.aggregators import (
    CAF,
    SMEA,
    CenteredClipping,
    CoordinateMedian,
    FLTrust,
    GeometricMedian,
    Krum,
    LossWeightedMean,
    Meamed,
    Mean,
    MinimumDiameterAveraging,
    MoNNA,
    MultiKrum,
    TrimmedMean,
    Zeno,
)
from lightning_agg.attacks import (
    ALittleIsEnough,
    AttackContext,
    Gaussian,
    InnerProduct,
    LabelFlip,
    Mimic,
    SignFlip,
)
from lightning_agg.interop import for_arrays
from lightning_agg.preaggregators import AdaptiveClipping, Bucketing, NearestNeighborMixing, NormClipping

NUMBERS = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
parity = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@st.composite
def pools(draw: st.DrawFn, smallest: int = 3, width: int = 5) -> tuple[np.ndarray, int]:
    """A matrix of different numbers and a number of attackers that is a minority."""
    size = draw(st.integers(smallest, 11))
    shape = (size, draw(st.integers(1, width)))
    return draw(arrays(np.float64, shape, elements=NUMBERS, unique=True)), draw(
        st.integers(0, (size - 1) // 2)
    )


def same(found: np.ndarray, expected: np.ndarray, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-9)


def assume_no_tie(keys: np.ndarray, kept: int) -> None:
    """The ``kept`` smallest of each row of ``keys`` are clearly so."""
    ordered = np.sort(np.atleast_2d(keys), axis=1)
    if kept < ordered.shape[1]:
        assume((ordered[:, kept] - ordered[:, kept - 1] > 1e-6 * (1 + ordered[:, kept])).all())


def distances(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def krum_scores(x: np.ndarray, neighbors: int, power: int) -> np.ndarray:
    return np.sort(distances(x) ** power, axis=1)[:, 1 : neighbors + 1].sum(axis=1)


# Coordinate by coordinate -------------------------------------------------------------------------------------


@parity
@given(pools())
def test_mean_median_and_trimmed_mean(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    same(for_arrays(Mean())(x), byzfl.Average()(x))
    same(for_arrays(CoordinateMedian())(x), byzfl.Median()(x))
    same(for_arrays(TrimmedMean(f))(x), byzfl.TrMean(f)(x))


@parity
@given(pools())
def test_torchjds_mean_and_trimmed_mean(pool: tuple[np.ndarray, int]) -> None:
    jd = pytest.importorskip("torchjd.aggregation")
    x, f = torch.from_numpy(pool[0]), pool[1]
    same(Mean()(x), jd.Mean()(x))
    same(TrimmedMean(f)(x), jd.TrimmedMean(f)(x))


@parity
@given(pools())
def test_meamed(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    assume_no_tie(np.abs(x - np.median(x, axis=0)).T, len(x) - f)
    same(for_arrays(Meamed(f))(x), byzfl.Meamed(f)(x))


# Whole rows ---------------------------------------------------------------------------------------------------


@parity
@given(pools(smallest=5), st.data())
def test_krum_and_multi_krum(pool: tuple[np.ndarray, int], data: st.DataObject) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, _ = pool
    f = data.draw(st.integers(0, (len(x) - 3) // 2))
    scores = krum_scores(x, len(x) - f - 1, 2)
    assume_no_tie(scores, 1)
    assume_no_tie(scores, len(x) - f)
    same(for_arrays(Krum(f, neighbors="byzfl"))(x), byzfl.Krum(f)(x))
    same(for_arrays(MultiKrum(f, len(x) - f, neighbors="byzfl"))(x), byzfl.MultiKrum(f)(x))


@parity
@given(pools(smallest=5), st.data())
def test_torchjds_krum(pool: tuple[np.ndarray, int], data: st.DataObject) -> None:
    jd = pytest.importorskip("torchjd.aggregation")
    x, _ = pool
    f = data.draw(st.integers(0, (len(x) - 3) // 2))
    m = data.draw(st.integers(1, len(x) - f))
    assume_no_tie(krum_scores(x, len(x) - f - 2, 1), m)
    rows = torch.from_numpy(x)
    same(MultiKrum(f, m, power=1)(rows), jd.Krum(f, m)(rows))


@parity
@given(pools(), st.data())
def test_monna(pool: tuple[np.ndarray, int], data: st.DataObject) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    trusted = data.draw(st.integers(0, len(x) - 1))
    assume_no_tie(distances(x)[trusted], len(x) - f)
    same(for_arrays(MoNNA(f, trusted))(x), byzfl.MoNNA(f, trusted)(x))


def subsets_by(measure: Any, x: np.ndarray, f: int) -> np.ndarray:
    return np.array([measure(x[list(kept)]) for kept in combinations(range(len(x)), len(x) - f)])


@parity
@given(pools())
def test_minimum_diameter_averaging(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    assume(len(x) - f > 1)
    assume_no_tie(subsets_by(lambda kept: distances(kept).max(), x, f), 1)
    same(for_arrays(MinimumDiameterAveraging(f))(x), byzfl.MDA(f)(x))


@parity
@given(pools(width=1))
def test_smea_of_one_coordinate_where_one_power_iteration_is_exact(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    assume(len(x) - f > 1)
    assume_no_tie(subsets_by(np.var, x, f), 1)
    same(for_arrays(SMEA(f))(x), byzfl.SMEA(f)(x))


@parity
@given(pools(), st.floats(0.1, 100), st.integers(1, 4))
def test_centered_clipping_over_rounds(pool: tuple[np.ndarray, int], radius: float, iterations: int) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, _ = pool
    ours, theirs = (
        for_arrays(CenteredClipping(radius, iterations)),
        byzfl.CenteredClipping(L=iterations, tau=radius),
    )
    for rows in (x, x + 1, -x):
        assume((np.linalg.norm(rows, axis=1) > 0).all())
        same(ours(rows), theirs(rows), rtol=1e-7)


@parity
@given(pools())
def test_geometric_median_is_at_least_as_good(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, _ = pool
    found, theirs = for_arrays(GeometricMedian())(x), byzfl.GeometricMedian(nu=1e-6, T=300)(x)
    reached, best = (np.linalg.norm(x - z, axis=1).sum() for z in (found, theirs))
    assert reached <= best * (1 + 1e-6)


# Before the rule ----------------------------------------------------------------------------------------------


@parity
@given(pools())
def test_nearest_neighbor_mixing(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    assume_no_tie(distances(x), len(x) - f)
    same(for_arrays(NearestNeighborMixing(f))(x), byzfl.NNM(f)(x))


@parity
@given(pools(), st.floats(0.1, 200))
def test_clipping(pool: tuple[np.ndarray, int], threshold: float) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, f = pool
    same(for_arrays(NormClipping(threshold))(x), byzfl.Clipping(threshold)(x.copy()))
    exact = Fraction(2 * f * (len(x) - f), len(x))
    if int(2 * f / len(x) * (len(x) - f)) == int(exact):  # theirs rounds the product
        same(for_arrays(AdaptiveClipping(f))(x), byzfl.ARC(f)(x.copy()))


@parity
@given(pools())
def test_bucketing_where_nothing_is_random(pool: tuple[np.ndarray, int]) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, _ = pool
    same(for_arrays(Bucketing(len(x)))(x), byzfl.Bucketing(len(x))(x))
    ours, theirs = for_arrays(Bucketing(1))(x), byzfl.Bucketing(1)(x)
    same(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


# Attacks ------------------------------------------------------------------------------------------------------


@parity
@given(pools(), st.floats(0.1, 10))
def test_attacks(pool: tuple[np.ndarray, int], factor: float) -> None:
    byzfl = pytest.importorskip("byzfl")
    x, worker = pool
    honest, own = torch.from_numpy(x), torch.zeros(1, x.shape[1], dtype=torch.float64)
    for ours, theirs in [
        (SignFlip(of="mean"), byzfl.SignFlipping()),
        (InnerProduct(scale=factor), byzfl.InnerProductManipulation(tau=factor)),
        (ALittleIsEnough(z=factor, direction="above", ddof=1), byzfl.ALittleIsEnough(tau=factor)),
        (Mimic(worker=worker), byzfl.Mimic(epsilon=worker)),
    ]:
        same(ours(honest, own)[0], theirs(x))


@parity
@given(st.floats(-100, 100), st.floats(0.01, 100), st.integers(0, 2**31), st.integers(2000, 4000))
def test_gaussian_has_the_same_law(mean: float, std: float, seed: int, width: int) -> None:
    """Each draws by its own generator, so the draws are compared as samples."""
    byzfl = pytest.importorskip("byzfl")
    own = torch.zeros(2, width, dtype=torch.float64)
    sent = Gaussian(std, shared=True, mean=mean)(own, own, AttackContext(seed=seed))
    np.random.seed(seed)
    theirs = byzfl.Gaussian(mean, std)(own.numpy())
    assert torch.equal(sent[0], sent[1])  # theirs is one row for all attackers
    assert theirs.shape == sent[0].shape
    assert ks_2samp(sent[0], theirs).pvalue > 1e-4


@parity
@given(st.integers(2, 10), st.integers(1, 3), st.integers(1, 8), st.data())
def test_label_flip_sends_the_same_gradients(
    classes: int, workers: int, batch: int, data: st.DataObject
) -> None:
    """Theirs sends the mean of the flipped gradients, ours each; that both look at the same data is the test's doing."""
    byzfl = pytest.importorskip("byzfl")
    inputs = torch.randn(workers, batch, 784, generator=torch.Generator().manual_seed(batch))
    labels = st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)
    targets = torch.tensor([data.draw(labels) for _ in range(workers)])
    flipped, own = [], []
    for samples in zip(inputs, targets, strict=True):
        client = byzfl.Client(
            {
                "model_name": "logreg_mnist",
                "device": "cpu",
                "loss_name": "CrossEntropyLoss",
                "LabelFlipping": True,
                "nb_labels": classes,
                "momentum": 0.0,
                "training_dataloader": DataLoader(TensorDataset(*samples), batch_size=batch),
                "store_per_client_metrics": False,
            }
        )
        client.compute_gradients()
        flipped.append(client.get_flat_flipped_gradients())
        loss = cross_entropy(client.model(samples[0]), LabelFlip().poison(samples[1], classes))
        gradients = torch.autograd.grad(loss, list(client.model.parameters()))
        own.append(torch.cat([gradient.flatten() for gradient in gradients]))
    sent = LabelFlip()(torch.stack(flipped), torch.stack(own))
    torch.testing.assert_close(sent.mean(dim=0), byzfl.LabelFlipping()(flipped))


# Precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Bucketing(3),
        NearestNeighborMixing(2),
        Zeno(1),
        LossWeightedMean(),
        FLTrust(),
        GeometricMedian(),
        CAF(2),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_float64_rows_keep_their_precision(rule: Any) -> None:
    row = honest_rows(1, dtype=torch.float64)
    rows = row.expand(7, -1)
    found = rule(rows, context_for(rows))
    if isinstance(rule, FLTrust):  # brings the rows to the length of the server's gradient
        found = found * row.norm() / row.shape[1] ** 0.5
    torch.testing.assert_close(found, row[0].expand_as(found), rtol=1e-14, atol=0)
