"""What holds for every attack."""

import inspect
import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_cases import CASES, AttackCase, rows

from lightning_agg import attacks
from lightning_agg.aggregators import Krum
from lightning_agg.attacks import (
    ALittleIsEnough,
    Attack,
    AttackContext,
    BitFlip,
    Fang,
    Gaussian,
    LabelFlip,
    LineSearch,
    Mimic,
    MinMax,
    MinSum,
    SignFlip,
)
from lightning_agg.errors import SettingError

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CONTEXT = AttackContext(round=3, seed=11, byzantine=(1, 4, 6), honest=(0, 2, 3, 5))


def subclasses(base):
    return {base, *(deep for child in base.__subclasses__() for deep in subclasses(child))}


def test_every_subclass_has_a_case_and_is_exported():
    ours = {child for child in subclasses(Attack) - {Attack} if child.__module__.startswith("lightning_agg.")}
    assert {type(case.make()) for case in CASES} == {child for child in ours if not inspect.isabstract(child)}
    assert {child.__name__ for child in ours} <= set(attacks.__all__)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_honest", "num_byzantine"), [(4, 3), (1, 1), (1, 3), (0, 2), (0, 1), (5, 0)])
def test_shape_dtype_and_finiteness(case: AttackCase, dtype, num_honest, num_byzantine):
    sent = case.make()(rows(num_honest, dtype=dtype), rows(num_byzantine, dtype=dtype, seed=1))
    assert sent.shape == (num_byzantine, 6)
    assert sent.dtype == dtype
    if num_byzantine:
        assert bool(sent.isfinite().all()) is case.finite
        assert bool(sent.isfinite().any()) is case.finite


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every
def test_stays_on_the_gpu(case: AttackCase):
    honest, own = rows(4).cuda(), rows(3, seed=1).cuda()
    first, again = case.make()(honest, own, CONTEXT), case.make()(honest, own, CONTEXT)
    assert first.device == own.device
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    if not case.random:
        expected = case.make()(honest.cpu(), own.cpu(), CONTEXT)
        torch.testing.assert_close(first.cpu(), expected, equal_nan=True)


@every
def test_arguments_are_not_modified(case: AttackCase):
    honest, own = rows(4), rows(3, seed=1)
    case.make()(honest, own, CONTEXT)
    torch.testing.assert_close(honest, rows(4), rtol=0, atol=0)
    torch.testing.assert_close(own, rows(3, seed=1), rtol=0, atol=0)


@every
def test_no_graph(case: AttackCase):
    sent = case.make()(rows(4).requires_grad_(), rows(3, seed=1).requires_grad_(), CONTEXT)
    assert not sent.requires_grad
    assert not case.make()(rows(4), rows(0).requires_grad_()).requires_grad


@every
def test_depends_on_its_key_alone(case: AttackCase):
    honest, own, attack = rows(4), rows(3, seed=1), case.make()
    before = attack.state_dict()
    first = attack(honest, own, CONTEXT)
    attack(honest, own, replace(CONTEXT, round=8))
    attack.load_state_dict(before)
    torch.testing.assert_close(attack(honest, own, CONTEXT), first, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(case.make()(honest, own, CONTEXT), first, rtol=0, atol=0, equal_nan=True)
    for other in (replace(CONTEXT, round=4), replace(CONTEXT, seed=12)):
        attack.load_state_dict(before)
        same = torch.equal(attack(honest, own, other).nan_to_num(), first.nan_to_num())
        assert same is not case.random


@every
@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_memory_survives_a_checkpoint(case: AttackCase, done):
    def sent(attack, index):
        return attack(rows(4, seed=index), rows(3, seed=-index), replace(CONTEXT, round=index)).nan_to_num()

    attack, resumed = case.make(), case.make()
    for index in range(done):
        sent(attack, index)
    file = io.BytesIO()
    torch.save(attack.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert bool(state) is attack.remembers
    resumed.load_state_dict(state)
    for index in range(done, done + 4):
        assert torch.equal(sent(attack, index), sent(resumed, index))
    attack.load_state_dict({})
    assert torch.equal(sent(attack, 0), sent(case.make(), 0))


@every
def test_global_generators_are_left_alone(case: AttackCase):
    def state():
        name, keys, *rest = np.random.get_state()
        return torch.random.get_rng_state().tolist(), random.getstate(), (name, keys.tolist(), rest)

    before = state()
    case.make()(rows(4), rows(3, seed=1), CONTEXT)
    assert state() == before


@every
def test_autocast_changes_nothing(case: AttackCase):
    def sent(attack):
        return [attack(rows(4, 20), rows(3, 20, seed=1), CONTEXT).nan_to_num() for _ in range(2)]

    attack, other = case.make(), case.make()
    expected = sent(attack)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, sent(other), expected))
    for name, value in attack.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(other.state_dict()[name], value)


@every
def test_collusion(case: AttackCase):
    sent = case.make()(rows(4), rows(3, seed=1), CONTEXT).nan_to_num()
    assert torch.equal(sent[0], sent[1]) is case.collusive
    assert torch.equal(sent[0], sent[2]) is case.collusive


@every
def test_labels_are_not_modified_and_keep_their_type(case: AttackCase):
    targets = torch.arange(10)
    poisoned = case.make().poison(targets, num_classes=10)
    assert torch.equal(targets, torch.arange(10))
    assert poisoned.dtype == targets.dtype
    assert torch.equal(poisoned, targets) is not isinstance(case.make(), LabelFlip)


@every
def test_check_accepts_any_pool(case: AttackCase):
    for pool_size, num_byzantine in [(10, 0), (10, 3), (10, 7), (3, 1), (10, 10)]:
        case.make().check(pool_size, num_byzantine)


def test_without_an_honest_row_attackers_know_who_they_are():
    seen = []

    class Spy(Attack):
        def forward(self, honest, own, context):
            seen.append((honest, context.honest, context.byzantine))
            return own

    own = rows(2)
    Spy()(rows(0), own, AttackContext(byzantine=(3, 5)))
    Spy()(rows(3), own)
    assert torch.equal(seen[0][0], own)
    assert seen[0][1:] == ((3, 5), (3, 5))
    assert seen[1][1:] == ((0, 1, 2), (3, 4))


@every
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_honest_row_that_is_not_finite_is_passed_over(case: AttackCase, bad):
    honest, own = rows(4), rows(3, seed=1)
    honest[2, 1] = bad
    left = replace(CONTEXT, honest=(0, 2, 5))
    expected = case.make()(honest[[0, 1, 3]], own, left)
    assert bool(expected.isfinite().all()) is case.finite
    torch.testing.assert_close(case.make()(honest, own, CONTEXT), expected, rtol=0, atol=0, equal_nan=True)


def test_where_no_honest_row_is_finite_attackers_take_their_own():
    honest, own = torch.full((4, 6), torch.nan), rows(3, seed=1)
    assert torch.equal(SignFlip(of="mean")(honest, own, CONTEXT), SignFlip(of="mean")(rows(0), own))


def test_the_pool_holds_every_worker_of_the_round():
    pools = []

    class Spy(Attack):
        def forward(self, honest, own, context):
            pools.append(context.pool(honest, own))
            return own

    honest, own = rows(4), rows(3, seed=1)
    honest[2, 1] = torch.inf
    Spy()(honest, own, CONTEXT)
    Spy()(torch.full_like(honest, torch.nan), own, CONTEXT)
    Spy()(rows(0), own, replace(CONTEXT, honest=()))
    (pool, sent), (broken, broken_sent), (alone, alone_sent) = pools
    assert sent == broken_sent == [1, 4, 6]
    assert alone_sent == [0, 1, 2]
    assert [len(matrix) for matrix in (pool, broken, alone)] == [7, 7, 3]
    assert torch.equal(pool[sent], own)
    assert torch.equal(pool[[0, 2, 5]], honest[[0, 1, 3]])
    assert pool[3].isnan().all()
    assert torch.equal(broken[sent], own)
    assert broken[[0, 2, 3, 5]].isnan().all()
    assert torch.equal(alone, own)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SignFlip()(rows(4), rows(3, width=5)), r"one width, got shapes \(4, 6\) and \(3, 5\)"),
        (lambda: SignFlip()(rows(4)[0], rows(3)), r"matrices of one width, got shapes \(6,\) and \(3, 6\)"),
        (
            lambda: SignFlip()(rows(4), rows(2), CONTEXT),
            "context.byzantine must hold one index .* got 3 for 2 rows",
        ),
        (
            lambda: SignFlip()(rows(3), rows(3), CONTEXT),
            "context.honest must hold one index .* got 4 for 3 rows",
        ),
        (lambda: SignFlip(of="median"), "SignFlip.of must be own or mean, got 'median'"),
        (lambda: SignFlip(scale=0.0), "SignFlip.scale must be a finite number above 0, got 0.0"),
        (lambda: attacks.Reverse(scale=-1.0), "Reverse.scale must be a finite number above 0, got -1.0"),
        (lambda: attacks.InnerProduct(scale=float("inf")), "InnerProduct.scale must be a finite .* got inf"),
        (lambda: Gaussian(std=float("nan")), "Gaussian.std must be a finite number above 0, got nan"),
        (lambda: Gaussian(mean=float("nan")), "Gaussian.mean must be a finite number, got nan"),
        (lambda: ALittleIsEnough(z=float("inf")), "ALittleIsEnough.z must be a finite number, got inf"),
        (
            lambda: ALittleIsEnough(direction="left"),
            "ALittleIsEnough.direction must be below or above, got 'left'",
        ),
        (
            lambda: ALittleIsEnough(statistics="all"),
            "ALittleIsEnough.statistics must be honest or own, got 'all'",
        ),
        (lambda: ALittleIsEnough(ddof=2), "ALittleIsEnough.ddof must be 0 or 1, got 2"),
        (lambda: ALittleIsEnough().check(10, 7), r"ALittleIsEnough.z must be given .* \(f = 7, M = 10\)"),
        (lambda: ALittleIsEnough().check(10, 6), r"2 f <= M \(f = 6, M = 10\)"),
        (lambda: ALittleIsEnough().check(2, 1), r"M >= 3 .* \(f = 1, M = 2\)"),
        (lambda: ALittleIsEnough()(rows(3), rows(7)), r"2 f <= M \(f = 7, M = 10\)"),
        (lambda: Mimic(worker=-1), "Mimic.worker must be at least 0, got -1"),
        (lambda: Mimic(worker=10).check(10, 3), "Mimic.worker must be below data.pool_size = 10, got 10"),
        (lambda: Mimic(warmup=-1), "Mimic.warmup must be at least 0, got -1"),
        (
            lambda: Mimic(worker=1, warmup=2),
            r"worker must be null where Mimic.warmup .* \(worker = 1, warmup = 2\)",
        ),
        (lambda: MinMax("max"), "MinMax.perturbation must be one of std, unit, sign, got 'max'"),
        (lambda: MinSum("max"), "MinSum.perturbation must be one of std, unit, sign, got 'max'"),
        (lambda: MinSum(bound="mean"), "MinSum.bound must be max or min, got 'mean'"),
        (lambda: BitFlip("byte"), "BitFlip.kind must be sign or bits, got 'byte'"),
        (lambda: BitFlip(worker=-1), r"BitFlip.worker must be at least 0, .* \(worker = -1, kind = sign\)"),
        (lambda: BitFlip("bits", worker=1), r"null for kind bits \(worker = 1, kind = bits\)"),
        (lambda: BitFlip(coordinates=5), r"null for kind sign \(coordinates = 5, kind = sign\)"),
        (lambda: BitFlip("bits", coordinates=0), r"must be at least 1, .* \(coordinates = 0, kind = bits\)"),
        (lambda: BitFlip(worker=10).check(10, 3), "BitFlip.worker must be below data.pool_size = 10, got 10"),
        (lambda: LineSearch(SignFlip()), "LineSearch.attack must be an attack with a factor, got SignFlip"),
        (lambda: Fang(bound=1.0), "Fang.bound must be a finite number above 1, got 1.0"),
        (lambda: Fang(knowledge="all"), "Fang.knowledge must be one of 'full', 'partial', got 'all'"),
        (
            lambda: LineSearch(MinMax(), "Krum"),
            "LineSearch.aggregator must be an aggregator, got str",
        ),
        (
            lambda: LineSearch(MinMax(), evaluations=7),
            "LineSearch.evaluations must be at least 8, got 7",
        ),
        (
            lambda: LineSearch(MinMax())(rows(4), rows(2)),
            "LineSearch must know the rule: give it an aggregator",
        ),
        (
            lambda: LineSearch(MinMax(), Krum(num_byzantine=4)).check(10, 3),
            r"Krum: num_byzantine must satisfy 2 f \+ 2 < M \(f = 4, M = 10\)",
        ),
        (lambda: LabelFlip(source=1), r"must be given together or not at all \(source = 1, target = None\)"),
        (lambda: LabelFlip(target=1), r"must be given together or not at all \(source = None, target = 1\)"),
        (lambda: LabelFlip(source=1, target=1), r"must differ .* \(source = 1, target = 1\)"),
        (lambda: LabelFlip(source=0, target=-1), r"must be at least 0 \(source = 0, target = -1\)"),
        (lambda: LabelFlip(shift=0), r"LabelFlip.shift must be at least 1, .* \(shift = 0, source = None"),
        (
            lambda: LabelFlip(1, 2, shift=1),
            r"without source and target \(shift = 1, source = 1, target = 2\)",
        ),
        (
            lambda: LabelFlip(shift=7).poison(torch.arange(3), num_classes=7),
            r"LabelFlip.shift must be below the number of classes \(shift = 7, classes = 7\)",
        ),
        (
            lambda: LabelFlip(source=2, target=7).poison(torch.arange(3), num_classes=7),
            r"must be below the number of classes \(source = 2, target = 7, classes = 7\)",
        ),
    ],
)
def test_errors_name_setting_rule_and_value(call, message):
    with pytest.raises(SettingError, match=message):
        call()


@pytest.mark.parametrize("attack", [SignFlip, LabelFlip, Fang])
def test_rows_of_another_type_are_told(attack):
    class Wrong(attack):
        def forward(self, honest, own, context):
            return own.numpy()

    with pytest.raises(
        SettingError, match=r"^Wrong.forward must return a torch.Tensor of rows .* got ndarray\.$"
    ):
        Wrong()(torch.ones(4, 3), torch.ones(2, 3))


def test_rows_of_the_wrong_shape_are_told():
    class Wrong(SignFlip):
        def forward(self, honest, own, context):
            return honest

    with pytest.raises(SettingError, match=r"expand to shape \(2, 3\), got \(4, 3\)"):
        Wrong()(torch.ones(4, 3), torch.ones(2, 3))
