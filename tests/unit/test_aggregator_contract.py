"""What holds for every aggregator, whatever its rule."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
import torch
from aggregator_cases import CASES, NUM_BYZANTINE, POOL_SIZE, WIDTH, Case, accepts, context_for, honest_rows

import lightning_agg.aggregators as package
from lightning_agg.aggregators import Aggregator, Context, External, Krum, PreAggregated, Recurrent
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.errors import SettingError

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
VALUES = [1e6, -1e6, 1e20, -1e20, 1e30, -1e30, float("nan"), float("inf"), -float("inf")]

EXACT = (
    "Mean",
    "CoordinateMedian",
    "TrimmedMean",
    "Meamed",
    "Phocas",
    "GeometricMedian",
    "MinimumDiameterAveraging",
    "MoNNA",
    "CGE",
    "SMEA",
    "PreAggregated-mixing_trimmed_mean",
)
"""Names of the cases that one attacker more carries away; the others may withstand some."""

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def only(attribute: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if getattr(case, attribute)]
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def aggregate(case: Case, gradients: torch.Tensor) -> torch.Tensor:
    return case.make()(gradients, context_for(gradients))


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_concrete_aggregator_has_a_case_and_is_exported() -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    ours = {cls for cls in subclasses(Aggregator) if cls.__module__.startswith(package.__name__)}
    concrete = {cls for cls in ours if not inspect.isabstract(cls)}
    # An untrained network stays near no mean: tests/values/test_recurrent.py holds its contract. What another library
    # does is its own: tests/unit/test_external.py.
    assert concrete - {Recurrent, External} == {case.cls for case in CASES}
    assert {cls.__name__ for cls in concrete} <= set(package.__all__)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_structure(case: Case, dtype: torch.dtype) -> None:
    gradients = honest_rows(dtype=dtype)
    before = gradients.clone()
    result = aggregate(case, gradients)
    assert result.shape == (WIDTH,)
    assert (result.dtype, result.device) == (dtype, gradients.device)
    assert not result.requires_grad
    assert (result.double() - honest_rows().double().mean(0)).norm() < 1.0
    assert torch.equal(gradients, before)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(case: Case, dtype: torch.dtype) -> None:
    gradients = 1e-4 * honest_rows()
    expected = aggregate(case, gradients)
    with torch.autocast("cpu", dtype=dtype):
        result = aggregate(case, gradients)
    assert torch.equal(result, expected)


@every_case
def test_result_does_not_alias(case: Case) -> None:
    aggregator, size = case.minimal
    for instance, rows in [(aggregator, size), (case.make(), POOL_SIZE)]:
        gradients = honest_rows(rows)
        before = gradients.clone()
        instance(gradients, context_for(gradients)).fill_(77.0)
        assert torch.equal(gradients, before)
        assert all(77.0 not in buffer for buffer in instance.memory().values())


@only("any_order")
@pytest.mark.parametrize("seed", range(3))
def test_order_of_workers_does_not_matter(case: Case, seed: int) -> None:
    gradients = honest_rows(dtype=torch.float64, seed=seed)
    order = torch.randperm(POOL_SIZE, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(aggregate(case, gradients[order]), aggregate(case, gradients))


@only("translates")
def test_translation(case: Case) -> None:
    gradients = honest_rows(dtype=torch.float64)
    shift = 3 * honest_rows(1, seed=7, dtype=torch.float64)[0]
    expected = aggregate(case, gradients) + shift
    torch.testing.assert_close(aggregate(case, gradients + shift), expected, rtol=1e-5, atol=0)


@only("scales")
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_scale(case: Case, scale: float) -> None:
    gradients = honest_rows(dtype=torch.float64)
    expected = scale * aggregate(case, gradients)
    torch.testing.assert_close(aggregate(case, scale * gradients), expected, rtol=1e-5, atol=0)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("first", [True, False], ids=["attackers first", "attackers last"])
@pytest.mark.parametrize("value", VALUES)
def test_survives_byzantine_rows(case: Case, value: float, first: bool, dtype: torch.dtype) -> None:
    gradients = honest_rows(dtype=dtype)
    attackers = slice(None, NUM_BYZANTINE) if first else slice(-NUM_BYZANTINE, None)
    honest = gradients[NUM_BYZANTINE:] if first else gradients[:-NUM_BYZANTINE]
    gradients[attackers] = value
    result = aggregate(case, gradients)
    assert result.isfinite().all()
    if case.robust or not torch.tensor(value).isfinite():
        assert (result.double() - honest.double().mean(0)).norm() < 1.0


@only("robust")
@pytest.mark.parametrize("scale", [1e6, 1e20, 1e30])
def test_survives_unequal_byzantine_rows_in_some_coordinates(case: Case, scale: float) -> None:
    if case.one_direction:
        pytest.skip("looks at one direction only")
    gradients = honest_rows()
    gradients[2, 0] = scale
    gradients[5, ::2] = -scale
    gradients[7] = scale * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    honest = gradients[[row for row in range(POOL_SIZE) if row not in (2, 5, 7)]]
    assert (aggregate(case, gradients) - honest.mean(0)).norm() < 1.0


def aggregate_for_long(aggregator: Aggregator, gradients: torch.Tensor) -> torch.Tensor:
    """The aggregate after so many rounds that a center which drifts is far away."""
    rounds = 40 if aggregator.memory() else 1
    return [aggregator(gradients, context_for(gradients)) for _ in range(rounds)][-1]


@every_case
@pytest.mark.parametrize("attack", ["same", "unequal", "one coordinate"])
@pytest.mark.parametrize("first", [True, False], ids=["attackers first", "attackers last"])
def test_breakdown_point_is_stood(case: Case, attack: str, first: bool) -> None:
    aggregator = case.make()
    claimed = aggregator.breakdown_point(POOL_SIZE)
    number = case.stands if claimed is None else claimed
    if number is None:
        assert case.one_direction
        return
    assert 0 <= number < POOL_SIZE
    sent = {
        "same": torch.full((POOL_SIZE, WIDTH), 1e20),
        "unequal": 1e20 * (honest_rows(seed=1) - 1),
        "one coordinate": honest_rows().index_fill(1, torch.tensor([7]), -1e20),
    }[attack]
    gradients = honest_rows()
    attackers = slice(None, number) if first else slice(POOL_SIZE - number, None)
    gradients[attackers] = sent[attackers]
    limit = 20 if case.robust else 250  # the honest rows are 7 long; rows clipped to a fixed length 200
    assert aggregate_for_long(aggregator, gradients).norm() < limit


def test_breakdown_point_is_none_where_nothing_is_known() -> None:
    assert Recurrent().breakdown_point(10) is None
    assert External(torch.sum).breakdown_point(POOL_SIZE) is None


def test_breakdown_point_needs_a_pool_that_the_rule_accepts() -> None:
    with pytest.raises(SettingError, match=r"Krum: num_byzantine must satisfy 2 f \+ 2 < M"):
        Krum(num_byzantine=8).breakdown_point(POOL_SIZE)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name.startswith(EXACT)],
    ids=lambda case: case.name,
)
def test_one_row_more_than_the_breakdown_point_is_not_stood(case: Case) -> None:
    number = case.make().breakdown_point(POOL_SIZE)
    assert number is not None
    aggregates = []
    for value in (1e20, -1e20):
        gradients = honest_rows()
        gradients[POOL_SIZE - number - 1 :] = value
        aggregates.append(aggregate(case, gradients))
    assert max(vector.norm() for vector in aggregates) > 1e15


@every_case
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_finite_row_gives_zeros(case: Case, value: float) -> None:
    gradients = torch.full((POOL_SIZE, WIDTH), value)
    aggregator = case.make()
    assert torch.equal(aggregator(gradients, context_for(gradients)), torch.zeros(WIDTH))
    assert aggregator.num_nonfinite == POOL_SIZE
    influence = aggregator.influence(gradients, context_for(gradients))
    assert influence is not None
    assert torch.equal(influence, torch.zeros(POOL_SIZE))


@every_case
@pytest.mark.parametrize("left", range(1, POOL_SIZE - NUM_BYZANTINE))
def test_more_nonfinite_rows_than_declared(case: Case, left: int) -> None:
    gradients = honest_rows()
    gradients[left:, 3] = torch.nan
    aggregator = case.make()
    result = aggregator(gradients, context_for(gradients))
    assert aggregator.num_nonfinite == POOL_SIZE - left
    assert (result - gradients[:left].mean(0)).norm() < 1.0


@every_case
def test_a_dropped_row_was_one_of_the_declared(case: Case) -> None:
    gradients = honest_rows(dtype=torch.float64)
    gradients[:NUM_BYZANTINE, 0] = torch.nan
    told = {"num_byzantine": 0} if "num_byzantine" in case.kwargs else {}
    rest = gradients[NUM_BYZANTINE:]
    expected = case.make(**told)(rest, context_for(rest))
    torch.testing.assert_close(aggregate(case, gradients), expected)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identical_rows(case: Case, dtype: torch.dtype) -> None:
    gradients = honest_rows(1, dtype=dtype).expand(POOL_SIZE, WIDTH)
    torch.testing.assert_close(aggregate(case, gradients), case.of_identical(gradients[0]))


@every_case
def test_zero_rows(case: Case) -> None:
    votes = 1.0 if case.kwargs.get("ties") == "positive" else 0.0
    assert torch.equal(aggregate(case, torch.zeros(POOL_SIZE, WIDTH)), torch.full((WIDTH,), votes))


@only("translates")
def test_close_rows_of_large_norm(case: Case) -> None:
    width = 100
    gradients = 300 * torch.ones(POOL_SIZE, width) + 1e-3 * (
        honest_rows(width=width) - 1
    )  # 3e3 long, 1e-3 apart
    exact = case.make()(gradients.double(), context_for(gradients.double()))
    ulp = 300 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(aggregate(case, gradients).double(), exact, rtol=0, atol=3 * ulp)


@every_case
@pytest.mark.parametrize("shape", [(31, 20), (64, 7), (1000, 5), (POOL_SIZE, 1), (POOL_SIZE, 20_000)])
def test_sizes(case: Case, shape: tuple[int, int]) -> None:
    gradients = honest_rows(*shape)
    aggregator = (
        case.make(iterations=200) if case.stateful else case.make()
    )  # steps of 1 over the norm of 141
    result = aggregator(gradients, context_for(gradients))
    assert result.shape == shape[1:]
    assert (result - 1).abs().max() < 0.5


@every_case
def test_smallest_pool_without_byzantine_workers(case: Case) -> None:
    aggregator, size = case.minimal
    gradients = honest_rows(size)
    result = aggregator(gradients, context_for(gradients))
    assert (result - gradients.mean(0)).norm() < 1.2
    if size > 1:
        with pytest.raises(SettingError, match=rf"{case.cls.__name__}: .* M = {size - 1}\)\."):
            aggregator(gradients[1:], context_for(gradients))


@every_case
def test_check_sees_the_pool_before_rows_are_dropped(case: Case) -> None:
    aggregator = case.make()
    size = next(m for m in range(1, 100) if accepts(aggregator, m))
    gradients = honest_rows(size)
    gradients[0] = torch.nan
    assert aggregator(gradients, context_for(gradients)).isfinite().all()


@every_case
@pytest.mark.parametrize(
    "matrix",
    [
        torch.ones(3),
        torch.ones(2, 3, 4),
        torch.ones(10, 3, dtype=torch.int64),
        torch.ones(0, 3),
        torch.ones(10, 0),
    ],
    ids=["vector", "cube", "integers", "no rows", "no columns"],
)
def test_rejects_what_is_no_matrix(case: Case, matrix: torch.Tensor) -> None:
    with pytest.raises(SettingError, match=r"gradients must be a floating \(M, d\) matrix"):
        case.make()(matrix)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_state_survives_a_checkpoint(case: Case, dtype: torch.dtype) -> None:
    first, second = honest_rows(dtype=dtype), honest_rows(dtype=dtype, seed=1)
    changes = {"iterations": 1} if case.stateful else {}  # more of them forget the start
    aggregator, restored = case.make(**changes), case.make(**changes)
    aggregator(first, context_for(first))
    restored.load_state_dict(aggregator.state_dict())
    assert torch.equal(restored(second, context_for(second)), aggregator(second, context_for(second)))


@every_case
def test_loading_writes_into_nothing_that_was_handed_out(case: Case) -> None:
    gradients = honest_rows()
    aggregator = case.make()
    with torch.inference_mode():
        aggregator(gradients, context_for(gradients))
    first = {name: value.clone() for name, value in aggregator.state_dict().items()}
    aggregator.load_state_dict(first)
    aggregator(2 * gradients, context_for(gradients))
    second, memory = aggregator.state_dict(), aggregator.memory()
    values = {name: value.clone() for name, value in second.items()}
    aggregator.load_state_dict(first)
    assert all(torch.equal(second[name], values[name]) for name in memory)


@every_case
@pytest.mark.parametrize("size", [POOL_SIZE, 40])
def test_the_default_device_is_nothing_to_a_rule(case: Case, size: int) -> None:
    gradients = honest_rows(size)
    aggregator, other = case.make(), case.make()
    context, expected = context_for(gradients), aggregator(gradients, context_for(gradients))
    with torch.device("meta"):
        assert torch.equal(other(gradients, context), expected)
        other.influence(gradients, context)


@every_case
def test_reset_forgets(case: Case) -> None:
    gradients = 3 * honest_rows()
    aggregator = case.make(iterations=1) if case.stateful else case.make()
    first = aggregator(gradients, context_for(gradients))
    second = aggregator(gradients, context_for(gradients))
    assert torch.equal(first, second) is not case.stateful
    aggregator.reset()
    assert torch.equal(aggregator(gradients, context_for(gradients)), first)
    assert bool(aggregator.memory()) is case.stateful


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_influence(case: Case, dtype: torch.dtype) -> None:
    gradients = honest_rows(dtype=dtype)
    gradients[1] = 1e6
    gradients[4, 0] = torch.nan
    aggregator = case.make()
    result = aggregator(gradients, context_for(gradients))
    aggregator.reset()
    influence = aggregator.influence(gradients, context_for(gradients))
    assert influence is not None
    assert all(buffer.numel() == 0 for buffer in aggregator.memory().values())
    assert (influence.shape, influence.dtype) == ((POOL_SIZE,), torch.float32)
    assert (influence >= 0).all()
    assert influence.sum() <= 1 + 1e-6
    assert influence[4] == 0
    if case.robust and not case.length_free:
        assert influence[1] < 1e-4
        assert influence.sum() > 0.6
    if case.is_combination:
        gradients[4] = 0
        combined = influence.double() @ gradients.double()
        tolerance = max(torch.finfo(dtype).eps, 1e-6)
        torch.testing.assert_close(result.double(), combined, rtol=tolerance, atol=1e-6)


@every_case
def test_forward_hooks_see_the_finite_rows_and_the_aggregate(case: Case) -> None:
    rule, gradients, seen = case.make(), honest_rows(), []
    rule.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    result = rule(gradients, context_for(gradients))
    ((rows, output),) = seen
    assert rows.shape == gradients.shape
    assert torch.equal(output, result)


def test_influence_leaves_buffers_that_memory_does_not_name() -> None:
    """It is asked in the rounds that are logged, and logging must not change the training."""

    class Fading(WeightedAggregator):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("share", torch.ones(()))

        def weights(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
            self.share = self.share / 2
            return self.share * torch.ones(len(gradients)) / len(gradients)

    for rule in (Fading(), PreAggregated([], Fading())):
        influence = rule.influence(honest_rows())
        assert influence is not None
        assert float(influence.sum()) == pytest.approx(0.5)
        torch.testing.assert_close(rule(honest_rows()), honest_rows().mean(0) / 2)


def test_influence_is_none_where_it_is_not_defined() -> None:
    class First(Aggregator):
        def forward(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
            return gradients[0].clone()

    assert First().influence(honest_rows()) is None


def test_an_overflowing_aggregate_is_no_step_and_leaves_no_memory() -> None:
    class Total(Aggregator):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(0))

        def memory(self) -> dict[str, torch.Tensor]:
            return {"total": self.total}

        def forward(self, gradients: torch.Tensor, context: Context) -> torch.Tensor:
            self.total = gradients.sum(0) + (self.total if self.total.numel() else 0)
            return self.total.clone()

    aggregator = Total()
    first = aggregator(honest_rows())
    assert torch.equal(aggregator(torch.full((POOL_SIZE, WIDTH), 3e38)), torch.zeros(WIDTH))
    assert torch.equal(aggregator.total, first)
