"""The table of aggregators that the contract tests run over, and the matrices that they run on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    FLTrust,
    GeometricMedian,
    Krum,
    LossWeightedMean,
    Meamed,
    Mean,
    MinimumDiameterAveraging,
    MoNNA,
    MultiKrum,
    Phocas,
    PreAggregated,
    SignMajority,
    TrimmedMean,
    Zeno,
)
from lightning_agg.preaggregators import AdaptiveClipping, Bucketing, NearestNeighborMixing, NormClipping

POOL_SIZE, WIDTH, NUM_BYZANTINE = 18, 50, 3


@dataclass(frozen=True)
class Case:
    """One configured aggregator and what holds for it with ``NUM_BYZANTINE`` attackers among ``POOL_SIZE``."""

    cls: type[Aggregator]
    kwargs: dict[str, Any] = field(default_factory=dict)
    robust: bool = True
    translates: bool = True  # f(x + c) = f(x) + c
    scales: bool = True  # f(s x) = s f(x) for s > 0
    stateful: bool = False
    is_combination: bool = False  # of rows, weighted by the influence
    length_free: bool = False  # reads the directions of the rows, not their lengths
    of_identical: Callable[[torch.Tensor], torch.Tensor] = lambda row: row
    any_order: bool = True  # of the workers
    one_direction: bool = False  # stands only attackers that send the same
    stands: int | None = None  # with the quadratic loss of these tests, where it claims nothing of others
    build: Callable[..., Aggregator] | None = None  # makes it of kwargs, in place of cls

    @property
    def name(self) -> str:
        parts = [self.cls.__name__, *([self.build.__name__] if self.build else [])]
        return "-".join([*parts, *(f"{key}={value}" for key, value in self.kwargs.items())])

    def make(self, **changes: Any) -> Aggregator:
        return (self.build or self.cls)(**{**self.kwargs, **changes})

    @property
    def minimal(self) -> tuple[Aggregator, int]:
        """The aggregator with f = 0 and the smallest pool that it accepts."""
        changes = {"num_byzantine": 0} if "num_byzantine" in self.kwargs else {}
        if self.kwargs.get("num_selected"):
            changes["num_selected"] = 1
        aggregator = self.make(**changes)
        return aggregator, next(m for m in range(1, 100) if accepts(aggregator, m))


def accepts(aggregator: Aggregator, pool_size: int) -> bool:
    try:
        aggregator.check(pool_size)
    except ValueError:
        return False
    return True


def to_ones_length(row: torch.Tensor) -> torch.Tensor:
    return (row.double() * (len(row) ** 0.5 / row.double().norm())).to(row.dtype)


def mixing_trimmed_mean(num_byzantine: int) -> PreAggregated:
    return PreAggregated([NearestNeighborMixing(num_byzantine)], TrimmedMean(num_byzantine))


def bucketing_multi_krum(num_byzantine: int) -> PreAggregated:
    return PreAggregated([Bucketing(2)], MultiKrum(num_byzantine))


def clipping_mean() -> PreAggregated:
    return PreAggregated([NormClipping(200.0)], Mean())


def adaptive_centered_clipping(num_byzantine: int, iterations: int) -> PreAggregated:
    return PreAggregated([AdaptiveClipping(num_byzantine)], CenteredClipping(1.0, iterations))


F = {"num_byzantine": NUM_BYZANTINE}
CASES = [
    Case(Mean, robust=False, is_combination=True),
    Case(CoordinateMedian),
    Case(CoordinateMedian, {"even": "lower"}),
    Case(TrimmedMean, F),
    Case(Krum, F, is_combination=True),
    Case(Krum, {**F, "neighbors": "byzfl", "power": 1}, is_combination=True),
    Case(MultiKrum, F, is_combination=True),
    Case(MultiKrum, {**F, "num_selected": 7, "neighbors": "byzfl"}, is_combination=True),
    Case(GeometricMedian, is_combination=True),
    Case(
        CenteredClipping,
        {"radius": 1.0, "iterations": 50},
        translates=False,
        scales=False,
        stateful=True,
    ),
    Case(SignMajority, translates=False, scales=False, length_free=True, of_identical=torch.sign),
    Case(
        SignMajority,
        {"ties": "positive"},
        translates=False,
        scales=False,
        length_free=True,
        of_identical=torch.sign,
    ),
    Case(Zeno, F, translates=False, scales=False, is_combination=True),
    Case(Zeno, {**F, "penalty": "mean_square"}, translates=False, scales=False, is_combination=True),
    Case(LossWeightedMean, translates=False, scales=False, is_combination=True, stands=POOL_SIZE - 1),
    Case(Meamed, F),
    Case(Meamed, {**F, "even": "lower"}),
    Case(Phocas, F),
    Case(Bulyan, F),
    Case(MinimumDiameterAveraging, F, is_combination=True),
    Case(MoNNA, {**F, "reference": 3}, is_combination=True, any_order=False),
    Case(CGE, F, translates=False, is_combination=True),
    Case(DnC, F, is_combination=True, one_direction=True),
    Case(DnC, {**F, "num_coordinates": 20, "filter_fraction": 1.5}, is_combination=True, one_direction=True),
    Case(CAF, F, is_combination=True),
    Case(SMEA, F, is_combination=True),
    Case(SMEA, {**F, "max_subsets": 0}, is_combination=True),
    Case(FLTrust, translates=False, scales=False, length_free=True, of_identical=to_ones_length),
    Case(PreAggregated, F, build=mixing_trimmed_mean),
    Case(PreAggregated, F, build=bucketing_multi_krum, is_combination=True, any_order=False),
    Case(
        PreAggregated, build=clipping_mean, robust=False, translates=False, scales=False, is_combination=True
    ),
    Case(
        PreAggregated,
        {**F, "iterations": 50},
        build=adaptive_centered_clipping,
        translates=False,
        scales=False,
        stateful=True,
    ),
]


def honest_rows(
    pool_size: int = POOL_SIZE, width: int = WIDTH, dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    """Rows around the vector of ones, 0.1 apart in each coordinate."""
    noise = torch.randn(pool_size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1 + 0.1 * noise).to(dtype)


def context_for(gradients: torch.Tensor, **changes: Any) -> Context:
    """A server whose public loss, half the mean square of theta + 1 at theta = 0, falls along :func:`honest_rows`,
    as does its own gradient, of ones."""
    return Context(
        parameters=lambda: gradients.new_zeros(gradients.shape[1]),
        public_losses=lambda parameters, num_samples: (parameters + 1).square().mean(dim=1) / 2,
        public_gradient=lambda num_samples: gradients.new_ones(gradients.shape[1]),
        **changes,
    )
