"""What aggregators refuse, and how they say it."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from lightning_agg.aggregators import (
    CAF,
    CGE,
    SMEA,
    Aggregator,
    Bulyan,
    CenteredClipping,
    Context,
    CoordinateMedian,
    DnC,
    External,
    FLTrust,
    GeometricMedian,
    Krum,
    LossWeightedMean,
    Meamed,
    Mean,
    MinimumDiameterAveraging,
    MoNNA,
    MultiKrum,
    PreAggregated,
    SignMajority,
    TrimmedMean,
    Zeno,
)
from lightning_agg.attacks import Attack
from lightning_agg.errors import SettingError
from lightning_agg.partitioners import Partitioner
from lightning_agg.preaggregators import (
    AdaptiveClipping,
    Bucketing,
    NearestNeighborMixing,
    NormClipping,
    PreAggregator,
)

F = {"num_byzantine": 1}


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (TrimmedMean, {"num_byzantine": -1}, "num_byzantine must be an integer of at least 0, got -1."),
        (TrimmedMean, {"num_byzantine": 0.2}, "num_byzantine must be an integer of at least 0, got 0.2."),
        (Krum, {"num_byzantine": True}, "num_byzantine must be an integer of at least 0, got True."),
        (Krum, {**F, "neighbors": "all"}, "neighbors must be one of 'paper', 'byzfl', got 'all'."),
        (Krum, {**F, "power": 4}, "power must be one of 1, 2, got 4."),
        (MultiKrum, {**F, "num_selected": 0}, "num_selected must be an integer of at least 1, got 0."),
        (MultiKrum, {**F, "power": True}, "power must be one of 1, 2, got True."),
        (CoordinateMedian, {"even": "upper"}, "even must be one of 'midpoint', 'lower', got 'upper'."),
        (SignMajority, {"ties": "random"}, "ties must be one of 'abstain', 'positive', got 'random'."),
        (GeometricMedian, {"iterations": 0}, "iterations must be an integer of at least 1, got 0."),
        (GeometricMedian, {"tolerance": -1.0}, "tolerance must be a finite number of at least 0, got -1.0."),
        (GeometricMedian, {"smoothing": 0}, "smoothing must be a finite number above 0, got 0."),
        (CenteredClipping, {"radius": 0.0}, "radius must be a finite number above 0, got 0.0."),
        (CenteredClipping, {"radius": float("inf")}, "radius must be a finite number above 0, got inf."),
        (CenteredClipping, {"iterations": 1.0}, "iterations must be an integer of at least 1, got 1.0."),
        (Zeno, {"num_byzantine": None}, "num_byzantine must be an integer of at least 0, got None."),
        (Zeno, {**F, "rho": float("nan")}, "rho must be a finite number of at least 0, got nan."),
        (Zeno, {**F, "step_size": -0.1}, "step_size must be a finite number above 0, got -0.1."),
        (Zeno, {**F, "num_samples": 0}, "num_samples must be an integer of at least 1, got 0."),
        (Zeno, {**F, "penalty": "l1"}, "penalty must be one of 'norm', 'mean_square', got 'l1'."),
        (Bulyan, {"num_byzantine": -1}, "num_byzantine must be an integer of at least 0, got -1."),
        (Meamed, {"num_byzantine": 1.0}, "num_byzantine must be an integer of at least 0, got 1.0."),
        (Meamed, {**F, "even": "upper"}, "even must be one of 'midpoint', 'lower', got 'upper'."),
        (MoNNA, {**F, "reference": -1}, "reference must be an integer of at least 0, got -1."),
        (CGE, {"num_byzantine": "1"}, "num_byzantine must be an integer of at least 0, got '1'."),
        (
            MinimumDiameterAveraging,
            {"num_byzantine": -2},
            "num_byzantine must be an integer of at least 0, got -2.",
        ),
        (CAF, {"num_byzantine": True}, "num_byzantine must be an integer of at least 0, got True."),
        (SMEA, {**F, "max_subsets": -1}, "max_subsets must be an integer of at least 0, got -1."),
        (DnC, {**F, "num_iterations": 0}, "num_iterations must be an integer of at least 1, got 0."),
        (DnC, {**F, "num_coordinates": 0}, "num_coordinates must be an integer of at least 1, got 0."),
        (DnC, {**F, "filter_fraction": 0.0}, "filter_fraction must be a finite number above 0, got 0.0."),
        (LossWeightedMean, {"sharpness": 0.0}, "sharpness must be a finite number above 0, got 0.0."),
        (LossWeightedMean, {"step_size": -1.0}, "step_size must be a finite number above 0, got -1.0."),
        (LossWeightedMean, {"num_samples": 0}, "num_samples must be an integer of at least 1, got 0."),
        (External, {"rule": 3}, "External.rule must be a function of the matrix, got 3."),
        (FLTrust, {"num_samples": 0}, "num_samples must be an integer of at least 1, got 0."),
        (
            NearestNeighborMixing,
            {"num_byzantine": -1},
            "num_byzantine must be an integer of at least 0, got -1.",
        ),
        (
            AdaptiveClipping,
            {"num_byzantine": 0.5},
            "num_byzantine must be an integer of at least 0, got 0.5.",
        ),
        (Bucketing, {"bucket_size": 0}, "bucket_size must be an integer of at least 1, got 0."),
        (NormClipping, {"threshold": 0}, "threshold must be a finite number above 0, got 0."),
        (
            PreAggregated,
            {"steps": ["NNM"], "aggregator": Mean()},
            "steps must be pre-aggregators, got ['NNM'].",
        ),
        (PreAggregated, {"steps": [], "aggregator": "Mean"}, "aggregator must be an Aggregator, got 'Mean'."),
    ],
)
def test_arguments(cls: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as error:
        cls(**kwargs)
    assert str(error.value) == message


def test_counts_and_numbers_of_numpy() -> None:
    assert TrimmedMean(np.int64(2))(torch.arange(5.0)[:, None]).item() == 2
    assert CenteredClipping(np.float32(1.5)).radius == 1.5
    with pytest.raises(SettingError, match="num_byzantine must be an integer of at least 0, got True"):
        TrimmedMean(True)


@pytest.mark.parametrize("gradients", [[[1.0, 2.0]], np.ones((2, 2)), None])
def test_what_is_no_tensor(gradients: Any) -> None:
    for call in (Mean(), Krum(0), Mean().influence):
        with pytest.raises(
            SettingError, match=r"gradients must be a torch.Tensor \(M, d\), got (list|nd|None)"
        ):
            call(gradients)


def test_dnc_takes_a_product_of_decimals_for_what_it_is() -> None:  # in floats 0.29 * 100 is below 29
    rows = torch.arange(201.0)[:, None]
    assert len(DnC(100, filter_fraction=0.29).selected(rows, Context())) == 201 - 29


@pytest.mark.parametrize(
    ("aggregator", "pool_size", "message"),
    [
        (Mean(), 1, None),
        (CoordinateMedian(), 1, None),
        (TrimmedMean(3), 7, None),
        (TrimmedMean(3), 6, "TrimmedMean: num_byzantine must satisfy 2 f < M (f = 3, M = 6)."),
        (Krum(3), 9, None),
        (Krum(3), 8, "Krum: num_byzantine must satisfy 2 f + 2 < M (f = 3, M = 8)."),
        (Krum(7), 10, "Krum: num_byzantine must satisfy 2 f + 2 < M (f = 7, M = 10)."),
        (MultiKrum(1), 4, "MultiKrum: num_byzantine must satisfy 2 f + 2 < M (f = 1, M = 4)."),
        (MultiKrum(3, 7), 10, None),
        (MultiKrum(3, 8), 10, "MultiKrum: num_selected must satisfy m <= M - f (m = 8, f = 3, M = 10)."),
        (Zeno(9), 10, None),
        (Zeno(10), 10, "Zeno: num_byzantine must satisfy f < M (f = 10, M = 10)."),
        (Bulyan(2), 11, None),
        (Bulyan(2), 10, "Bulyan: num_byzantine must satisfy 4 f + 3 <= M (f = 2, M = 10)."),
        (Meamed(5), 10, "Meamed: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (MoNNA(4, 9), 10, None),
        (MoNNA(4, 10), 10, "MoNNA: reference must satisfy reference < M (reference = 10, M = 10)."),
        (MoNNA(5), 10, "MoNNA: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (CGE(5), 10, "CGE: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (CAF(5), 10, "CAF: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (SMEA(5), 10, "SMEA: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (
            MinimumDiameterAveraging(5),
            10,
            "MinimumDiameterAveraging: num_byzantine must satisfy 2 f < M (f = 5, M = 10).",
        ),
        (DnC(5), 10, "DnC: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (DnC(4, filter_fraction=2.0), 10, None),
        (
            DnC(4, filter_fraction=2.5),
            10,
            "DnC: filter_fraction must satisfy floor(c f) < M (c = 2.5, f = 4, M = 10).",
        ),
        (FLTrust(), 1, None),
        (NearestNeighborMixing(4), 9, None),
        (
            NearestNeighborMixing(5),
            10,
            "NearestNeighborMixing: num_byzantine must satisfy 2 f < M (f = 5, M = 10).",
        ),
        (AdaptiveClipping(5), 10, "AdaptiveClipping: num_byzantine must satisfy 2 f < M (f = 5, M = 10)."),
        (PreAggregated([Bucketing(2)], TrimmedMean(2)), 9, None),
        (
            PreAggregated([Bucketing(2)], TrimmedMean(2)),
            8,
            "PreAggregated: TrimmedMean: num_byzantine must satisfy 2 f < M (f = 2, M = 4) for the rows that the"
            " steps leave (pool size M = 8).",
        ),
        (
            PreAggregated([NearestNeighborMixing(3)], Mean()),
            6,
            "PreAggregated: NearestNeighborMixing: num_byzantine must satisfy 2 f < M (f = 3, M = 6).",
        ),
    ],
)
def test_bounds(aggregator: Any, pool_size: int, message: str | None) -> None:
    with nullcontext() if message is None else pytest.raises(SettingError) as error:
        aggregator.check(pool_size)
    if error is not None:
        assert str(error.value) == message


def test_zeno_needs_public_data() -> None:
    with pytest.raises(SettingError, match=r"public_size must be at least the aggregator's num_samples"):
        Zeno(1)(torch.ones(4, 2))


def test_fltrust_needs_public_data() -> None:
    with pytest.raises(SettingError, match=r"public_size must be at least num_samples \(public_size = 0"):
        FLTrust()(torch.ones(4, 2))


def test_centered_clipping_refuses_another_width() -> None:
    aggregator = CenteredClipping()
    aggregator(torch.ones(4, 2))
    with pytest.raises(SettingError, match=r"without reset\(\) \(was 2, is 3\)\."):
        aggregator(torch.ones(4, 3))
    aggregator.reset()
    assert aggregator(torch.ones(4, 3)).shape == (3,)


@pytest.mark.parametrize(
    "returned",
    [torch.zeros(1, 3), torch.zeros(5), torch.zeros(3, dtype=torch.float64), None],
    ids=["matrix", "rows", "double", "none"],
)
def test_an_aggregate_of_another_form_is_told(returned):
    class Wrong(Mean):
        def forward(self, gradients, context):
            return returned

    told = r"Wrong.forward must return a torch.Tensor of shape \(3,\), torch.float32, got"
    with pytest.raises(SettingError, match=told):
        Wrong()(torch.ones(5, 3))


@pytest.mark.parametrize(
    ("base", "method"),
    [(Aggregator, "forward"), (PreAggregator, "weights"), (Attack, "forward"), (Partitioner, "split")],
)
def test_a_method_that_cannot_be_called_is_told_with_its_class(base, method):
    def own(self, rows):
        return rows

    with pytest.raises(
        SettingError, match=rf"^Mine\.{method} must take \(self, \w+, .*\), got \(self, rows\)\.$"
    ):
        type("Mine", (base,), {method: own})
    type("Mine", (base,), {method: lambda self, *rows: rows})


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "behind"])
def test_a_rule_that_writes_into_the_gradients_is_told(inside):
    class Writing(Mean):
        def forward(self, gradients, context):
            return gradients.clamp_(-1, 1).mean(0)

    rule = PreAggregated([], Writing()) if inside else Writing()
    with pytest.raises(SettingError, match=r"\w+.forward must not write into the gradients"):
        rule(torch.ones(5, 3))
    with torch.inference_mode():
        assert Mean()(torch.ones(5, 3)).tolist() == [1, 1, 1]
