"""What holds for every pre-aggregator, and for what chains them."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from aggregator_cases import POOL_SIZE, WIDTH, honest_rows
from preaggregator_cases import CASES, PreCase

from lightning_agg import preaggregators
from lightning_agg.aggregators import (
    CenteredClipping,
    Context,
    CoordinateMedian,
    FLTrust,
    Krum,
    Mean,
    PreAggregated,
    SignMajority,
    TrimmedMean,
)
from lightning_agg.errors import SettingError
from lightning_agg.preaggregators import (
    AdaptiveClipping,
    Bucketing,
    NearestNeighborMixing,
    NormClipping,
    PreAggregator,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
every = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
CONTEXT = Context(seed=5, round=3)


def only(attribute: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if getattr(case, attribute)]
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_concrete_preaggregator_has_a_case_and_is_exported() -> None:
    ours = {cls for cls in subclasses(PreAggregator) if cls.__module__.startswith("lightning_agg.")}
    concrete = {cls for cls in ours if not inspect.isabstract(cls)}
    assert concrete == {case.cls for case in CASES}
    assert {cls.__name__ for cls in concrete} <= set(preaggregators.__all__)


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [7, POOL_SIZE, 60])
def test_structure(case: PreCase, dtype: torch.dtype, size: int) -> None:
    gradients = honest_rows(size, dtype=dtype).requires_grad_()
    before = gradients.detach().clone()
    step = case.make()
    rows = step(gradients, CONTEXT)
    assert rows.shape == (step.num_rows(size), WIDTH)
    assert (rows.dtype, rows.device, rows.requires_grad) == (dtype, gradients.device, False)
    assert torch.equal(gradients, before)
    rows.fill_(77.0)
    assert torch.equal(gradients, before)


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_make_the_rows(case: PreCase, dtype: torch.dtype) -> None:
    gradients = honest_rows(dtype=dtype)
    gradients[3] *= 9
    step = case.make()
    weights = step.weights(gradients, CONTEXT)
    assert weights is not None
    assert (weights >= 0).all()
    assert (weights.sum(dim=1) <= 1 + 1e-6).all()
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-6)
    expected = weights.double() @ gradients.double()
    torch.testing.assert_close(step(gradients, CONTEXT).double(), expected, rtol=tolerance, atol=tolerance)


@only("any_order")
def test_order_of_workers_does_not_matter(case: PreCase) -> None:
    gradients = honest_rows(dtype=torch.float64)
    order = torch.randperm(POOL_SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(case.make()(gradients[order]), case.make()(gradients)[order])


@only("translates")
def test_translation(case: PreCase) -> None:
    gradients, shift = honest_rows(dtype=torch.float64), honest_rows(1, seed=7, dtype=torch.float64)
    expected = case.make()(gradients, CONTEXT) + shift
    torch.testing.assert_close(case.make()(gradients + shift, CONTEXT), expected)


@only("scales")
def test_scale(case: PreCase) -> None:
    gradients = honest_rows(dtype=torch.float64)
    expected = 1e4 * case.make()(gradients, CONTEXT)
    torch.testing.assert_close(case.make()(1e4 * gradients, CONTEXT), expected)


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [1e6, -1e20, 1e30, 3e38])
def test_huge_rows_stay_finite(case: PreCase, value: float, dtype: torch.dtype) -> None:
    gradients = honest_rows(dtype=dtype)
    gradients[:3] = value
    rows = case.make()(gradients, CONTEXT)
    assert rows.isfinite().all()
    if case.rejects_outliers:
        assert (rows[3:].double() - 1).norm(dim=1).max() < 1.2


@every
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_rows_are_dropped(case: PreCase, value: float) -> None:
    gradients = honest_rows()
    gradients[::6, 3] = value
    step = case.make()
    rows = step(gradients, CONTEXT)
    finite = gradients[gradients.isfinite().all(dim=1)]
    assert rows.shape == (step.num_rows(len(finite)), WIDTH)
    assert rows.isfinite().all()
    assert step(torch.full((POOL_SIZE, WIDTH), value)).shape == (0, WIDTH)


@every
def test_identical_and_zero_rows(case: PreCase) -> None:
    gradients = 0.5 * honest_rows(1).expand(POOL_SIZE, WIDTH)
    step = case.make()
    for rows in (gradients, torch.zeros(POOL_SIZE, WIDTH)):
        torch.testing.assert_close(step(rows, CONTEXT), rows[: step.num_rows(POOL_SIZE)])


@every
def test_depends_on_seed_and_round_alone(case: PreCase) -> None:
    gradients, state = honest_rows(), torch.get_rng_state()
    first = case.make()(gradients, CONTEXT)
    assert torch.equal(case.make()(gradients, CONTEXT), first)
    for other in (Context(seed=6, round=3), Context(seed=5, round=4)):
        assert torch.equal(case.make()(gradients, other), first) is not case.random
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_rejects_what_is_no_matrix(case: PreCase) -> None:
    for matrix in (torch.ones(3), torch.ones(4, 3, dtype=torch.int64), torch.ones(9, 0)):
        with pytest.raises(SettingError, match=r"gradients must be a floating \(M, d\) matrix"):
            case.make()(matrix)


# Chained ------------------------------------------------------------------------------------------------------


def test_chain_is_one_after_another() -> None:
    gradients = honest_rows()
    steps = [AdaptiveClipping(2), NearestNeighborMixing(2), Bucketing(3)]
    rows = gradients
    for step in steps:
        rows = step(rows, CONTEXT)
    expected = TrimmedMean(1)(rows)
    torch.testing.assert_close(PreAggregated(steps, TrimmedMean(1))(gradients, CONTEXT), expected)
    assert torch.equal(PreAggregated([], Krum(3))(gradients), Krum(3)(gradients))


def test_influence_goes_through_the_steps() -> None:
    x = torch.tensor([[1.0], [2.0], [9.0], [torch.nan]])
    mixed = PreAggregated([NearestNeighborMixing(1)], Mean()).influence(x)
    assert mixed.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])  # f = 0 is left
    x[3] = 4.0
    mixed = PreAggregated([NearestNeighborMixing(1)], Mean()).influence(x)  # {0,1,3} {0,1,3} {1,2,3} {0,1,3}
    assert mixed.tolist() == pytest.approx([3 / 12, 4 / 12, 1 / 12, 4 / 12])
    clipped = PreAggregated([NormClipping(3.0)], Mean()).influence(x)
    assert clipped.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 12, 3 / 16])


def test_influence_is_none_where_a_step_is_no_sum() -> None:
    class Signs(PreAggregator):
        def weights(self, gradients: torch.Tensor, context: Context) -> None:
            return None

        def forward(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
            return gradients.sign()

    rule = PreAggregated([Signs()], Mean())
    assert rule.influence(honest_rows()) is None
    assert torch.equal(rule(honest_rows()), torch.ones(WIDTH))


def test_memory_of_the_aggregator_is_that_of_the_chain() -> None:
    def rule() -> PreAggregated:
        return PreAggregated([NormClipping(5.0)], CenteredClipping(1.0))

    first, restored = rule(), PreAggregated([], rule())
    first(honest_rows())
    assert list(first.memory()) == ["aggregator.center"]
    nested = {"aggregator." + name: value for name, value in first.state_dict().items()}
    restored.load_state_dict(nested)
    assert list(restored.memory()) == ["aggregator.aggregator.center"]
    assert torch.equal(restored(honest_rows(seed=1)), first(honest_rows(seed=1)))
    restored.reset()
    assert restored.memory()["aggregator.aggregator.center"].numel() == 0
    assert torch.equal(restored(honest_rows()), rule()(honest_rows()))


class Centring(PreAggregator):
    """Moves the rows by their last mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(0))

    def memory(self) -> dict[str, torch.Tensor]:
        return {"last": self.last}

    def weights(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
        share = 1.0 if self.last.numel() == 0 else 1 / (1 + float(self.last.norm()))
        self.last = gradients.mean(0)
        return share * torch.eye(len(gradients))


def test_memory_of_a_step() -> None:
    first = PreAggregated([NormClipping(5.0), Centring()], Mean())
    start = first(honest_rows())
    memory = first.memory()
    assert list(memory) == ["steps.1.last"]
    assert first.influence(honest_rows(seed=1)) is not None
    assert first.memory()["steps.1.last"] is memory["steps.1.last"]
    restored = PreAggregated([NormClipping(5.0), Centring()], Mean())
    restored.load_state_dict(first.state_dict())
    assert torch.equal(restored(honest_rows(seed=1)), first(honest_rows(seed=1)))
    restored.reset()
    assert torch.equal(restored(honest_rows()), start)


def test_an_overflow_behind_the_steps_leaves_no_memory() -> None:
    class Doubling(PreAggregator):
        def weights(self, gradients: torch.Tensor, context: Context) -> None:
            return None

        def forward(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
            return 2 * gradients

    rule = PreAggregated([Doubling()], CenteredClipping(1.0))
    start = rule(honest_rows())
    gradients = honest_rows()
    gradients[1] = 3e38  # overflows in the step: dropped there
    assert rule(gradients).isfinite().all()
    assert torch.equal(rule(torch.full((4, WIDTH), 3e38)), torch.zeros(WIDTH))
    assert rule.memory()["aggregator.center"].isfinite().all()
    assert not torch.equal(start, rule(honest_rows()))


def test_context_and_public_samples_reach_the_aggregator() -> None:
    rule = PreAggregated([NormClipping(1.0)], FLTrust(num_samples=9))
    assert rule.public_samples == 9
    context = Context(public_gradient=lambda num_samples: torch.ones(WIDTH) * num_samples)
    assert rule(honest_rows(), context).norm().item() == pytest.approx(9 * WIDTH**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("steps", "aggregator", "equivariance"),
    [
        ([NearestNeighborMixing(1)], Krum(1), "rotations"),
        ([NearestNeighborMixing(1)], CoordinateMedian(), "mixed"),
        ([NearestNeighborMixing(1), NormClipping(1.0)], TrimmedMean(1), "mixed"),
        ([NearestNeighborMixing(1)], SignMajority(), None),
        ([], SignMajority(), "signs"),
        ([Bucketing(2)], Krum(1), None),
        ([], CoordinateMedian(), "columns"),
        ([], Mean(), "linear"),
        ([NearestNeighborMixing(1)], Mean(), "rotations"),
        ([NormClipping(1.0)], CenteredClipping(), None),
    ],
)
def test_equivariance(steps: list[Any], aggregator: Any, equivariance: str | None) -> None:
    assert PreAggregated(steps, aggregator).equivariance == equivariance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every
def test_gpu_agrees_with_cpu(case: PreCase) -> None:
    gradients = honest_rows()
    rows = case.make()(gradients.cuda(), CONTEXT)
    assert rows.device.type == "cuda"
    torch.testing.assert_close(rows.cpu(), case.make()(gradients, CONTEXT), rtol=1e-4, atol=1e-5)
