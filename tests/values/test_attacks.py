"""Attacks against values found by hand or by an independent route."""

import numpy as np
import pytest
import torch
from attack_cases import rows
from scipy.stats import kstest, norm

from lightning_agg.aggregators import (
    CGE,
    CenteredClipping,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
    MoNNA,
    MultiKrum,
    PreAggregated,
    Recurrent,
    TrimmedMean,
)
from lightning_agg.attacks import (
    ALittleIsEnough,
    Attack,
    AttackContext,
    BitFlip,
    Disguise,
    Drop,
    Fang,
    Gaussian,
    Infinity,
    InnerProduct,
    LabelFlip,
    LineSearch,
    Mimic,
    MinMax,
    MinSum,
    NotANumber,
    Reverse,
    SignFlip,
)
from lightning_agg.errors import SettingError
from lightning_agg.preaggregators import AdaptiveClipping, NearestNeighborMixing

HONEST = torch.tensor([[1.0, -2.0, 0.0], [3.0, 4.0, 0.0], [5.0, 1.0, 6.0]])  # mean (3, 1, 2)
OWN = torch.tensor([[10.0, 0.0, -1.0], [20.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("attack", "sent"),
    [
        (SignFlip(), [[-10, 0, 1], [-20, -2, -3]]),
        (SignFlip(scale=2.0), [[-20, 0, 2], [-40, -4, -6]]),
        (SignFlip(of="mean"), [[-3, -1, -2]] * 2),
        (SignFlip(of="mean", scale=0.5), [[-1.5, -0.5, -1]] * 2),
        (Reverse(), [[-9, -3, -6]] * 2),
        (Reverse(scale=10.0), [[-30, -10, -20]] * 2),
        (InnerProduct(), [[-0.3, -0.1, -0.2]] * 2),
        (InnerProduct(scale=2.0), [[-6, -2, -4]] * 2),
        (Drop(), [[0, 0, 0]] * 2),
        (Infinity(), [[float("inf")] * 3] * 2),
        (NotANumber(), [[float("nan")] * 3] * 2),
        (LabelFlip(), OWN.tolist()),
        (Mimic(), [[1, -2, 0]] * 2),
        (Mimic(worker=2), [[5, 1, 6]] * 2),
        (BitFlip(), [[-1, 2, 0]] * 2),
        (BitFlip(worker=1), [[-3, -4, 0]] * 2),
        (ALittleIsEnough(z=0.0), [[3, 1, 2]] * 2),
        # variances 8/3, 6, 8 (or 4, 9, 12 divided by n - 1)
        (ALittleIsEnough(z=1.0), [[3 - (8 / 3) ** 0.5, 1 - 6**0.5, 2 - 8**0.5]] * 2),
        (ALittleIsEnough(z=-1.0), [[3 + (8 / 3) ** 0.5, 1 + 6**0.5, 2 + 8**0.5]] * 2),
        (ALittleIsEnough(z=1.5, direction="above", ddof=1), [[6, 5.5, 2 + 1.5 * 12**0.5]] * 2),
        (ALittleIsEnough(z=2.0, statistics="own"), [[5, -1, -3]] * 2),
        # M = 5, f = 2: s = 1, so z is the quantile of 2/3, 0.4307
        (
            ALittleIsEnough(),
            [[3 - 0.430727 * (8 / 3) ** 0.5, 1 - 0.430727 * 6**0.5, 2 - 0.430727 * 8**0.5]] * 2,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Attack) else "",
)
def test_by_hand(attack, sent):
    torch.testing.assert_close(attack(HONEST, OWN), torch.tensor(sent).float(), equal_nan=True)


@pytest.mark.parametrize(("m", "z"), [(1, -0.140), (2, 0.0), (3, 0.180), (4, 0.431), (5, 0.842)])
def test_z_for_ten_workers(m, z):
    assert ALittleIsEnough.largest_z(10, m) == pytest.approx(z, abs=5e-4)
    ALittleIsEnough().check(10, m)


def test_z_of_the_papers_example():
    # n = 50, m = 24: s = 2, so z = quantile of 24/26; the paper's text reads 1.43 off its table
    assert ALittleIsEnough.largest_z(50, 24) == pytest.approx(norm.ppf(24 / 26))
    assert ALittleIsEnough.largest_z(50, 24) == pytest.approx(1.43, abs=5e-3)


def test_z_is_defined_exactly_where_the_quantile_is():
    for n in range(1, 30):
        for m in range(1, n):
            s = np.floor(n / 2 + 1) - m
            p = (n - m - s) / (n - m)
            if 0 < p < 1:
                assert ALittleIsEnough.largest_z(n, m) == pytest.approx(norm.ppf(p), abs=1e-9)
            else:
                with pytest.raises(ValueError, match=r"ALittleIsEnough\.z must be given"):
                    ALittleIsEnough.largest_z(n, m)


@pytest.mark.parametrize("lost", [0, 2, 6, 7])
def test_z_follows_from_the_workers_of_the_round_whoever_of_them_sends_no_finite_row(lost):
    honest, own = rows(7), rows(3, seed=1)
    honest[:lost, 1] = torch.nan
    expected = ALittleIsEnough(z=ALittleIsEnough.largest_z(10, 3))(honest, own)
    torch.testing.assert_close(ALittleIsEnough()(honest, own), expected)


@pytest.mark.parametrize("ddof", [0, 1])
def test_alie_over_one_row_has_no_deviation(ddof):
    attack = ALittleIsEnough(z=5.0, ddof=ddof)
    torch.testing.assert_close(attack(HONEST[:1], OWN), HONEST[:1].expand(2, 3))


def test_three_of_ten_turn_the_mean_round_from_seven_thirds_on():
    honest = rows(7, dtype=torch.float64)
    mean = honest.mean(dim=0)
    for scale, turned in [(2.3, False), (2.4, True), (Reverse().scale, True)]:
        sent = Reverse(scale=scale)(honest, rows(3, dtype=torch.float64, seed=1))
        assert bool(torch.cat([honest, sent]).mean(dim=0) @ mean < 0) is turned


def test_label_flips():
    targets = torch.tensor([0, 1, 2, 7, 9])
    assert LabelFlip().poison(targets, num_classes=10).tolist() == [9, 8, 7, 2, 0]
    assert LabelFlip().poison(targets[:3], num_classes=3).tolist() == [2, 1, 0]
    assert LabelFlip(source=2, target=7).poison(targets, num_classes=10).tolist() == [0, 1, 7, 7, 9]
    assert LabelFlip(shift=3).poison(targets, num_classes=10).tolist() == [
        (y + 3) % 10 for y in targets.tolist()
    ]
    assert LabelFlip(source=0, target=9).poison(targets, num_classes=10).tolist() == [9, 1, 2, 7, 9]
    for attack in (LabelFlip(), LabelFlip(shift=1), LabelFlip(source=0, target=9)):
        padded = attack.poison(torch.tensor([0, -100]), num_classes=10)  # what cross entropy passes over
        assert padded[1] == -100 != padded[0]


@pytest.mark.parametrize(
    ("worker", "honest", "copied"),
    [
        (None, (0, 1, 2), 0),
        (None, (2, 4, 5), 0),
        (4, (2, 4, 5), 1),
        (3, (2, 4, 5), 1),  # 3 is Byzantine: the next honest one
        (6, (2, 4, 5), 0),  # none above 6: the lowest of all
        (4, (5, 4, 2), 1),  # rows in any order
        (3, (5, 4, 2), 1),
        (None, (5, 4, 2), 2),
    ],
)
def test_whom_mimic_copies(worker, honest, copied):
    sent = Mimic(worker=worker)(HONEST, OWN, AttackContext(honest=honest, byzantine=(3, 6)))
    torch.testing.assert_close(sent, HONEST[copied].expand(2, 3))


@pytest.mark.parametrize(
    ("attack", "mean", "std"),
    [(Gaussian(), 0.0, 200.0), (Gaussian(std=0.5, mean=3.0, shared=True), 3.0, 0.5)],
)
def test_gaussian_distribution(attack, mean, std):
    own = torch.zeros(2, 50_000)
    for row in attack(own, own, AttackContext(seed=3)):
        assert float(row.mean()) == pytest.approx(mean, abs=4 * std / 50_000**0.5)
        assert float(row.std()) == pytest.approx(std, rel=0.02)
        assert kstest(row.numpy(), norm(mean, std).cdf).pvalue > 1e-3


def test_gaussian_rows_do_not_depend_on_who_else_attacks():
    def sent(*byzantine, **key):
        own = torch.zeros(len(byzantine), 50)
        return dict(
            zip(byzantine, Gaussian()(own[:1], own, AttackContext(byzantine=byzantine, **key)), strict=True)
        )

    alone, together, reversed_ = sent(4), sent(1, 4, 7), sent(7, 4, 1)
    assert torch.equal(alone[4], together[4])
    for worker in (1, 4, 7):
        assert torch.equal(together[worker], reversed_[worker])
    independent = torch.stack([*sent(*range(20)).values(), *sent(*range(20), round=1).values()])
    correlations = torch.corrcoef(independent) - torch.eye(40)
    assert float(correlations.abs().max()) < 0.65  # 780 pairs of 50 coordinates: 4.6 standard deviations
    assert float(correlations.std()) == pytest.approx(50**-0.5, rel=0.1)


def test_shared_gaussian_is_one_row_whoever_attacks():
    own = torch.zeros(2, 50)
    first = Gaussian(shared=True)(own, own, AttackContext(byzantine=(0, 1)))
    second = Gaussian(shared=True)(own, own, AttackContext(byzantine=(5, 9)))
    assert torch.equal(first, second)
    assert not torch.equal(first, Gaussian()(own, own, AttackContext(byzantine=(0, 1))))


def test_gaussian_does_not_read_the_gradients():
    context = AttackContext(byzantine=(2, 3), honest=(0, 1, 4))
    torch.testing.assert_close(
        Gaussian()(HONEST, OWN, context), Gaussian()(-HONEST, 0 * OWN, context), rtol=0, atol=0
    )


def flipped(x):
    """Bits 22, 30, 31 and 32 of a float32, through the text of its bits."""
    bits = list(f"{np.float32(x).view(np.uint32):032b}")
    for bit in (22, 30, 31, 32):
        bits[32 - bit] = "10"[int(bits[32 - bit])]
    return float(np.array(int("".join(bits), 2), dtype=np.uint32).view(np.float32))


def test_bit_flips_against_text():
    own = torch.tensor([[0.0, 1.0, -1.0, 0.37, -1e-5, 3.0, -1e30, 1e-30]])
    sent = BitFlip("bits")(own, own)
    assert sent[0].tolist() == [flipped(x) for x in own[0].tolist()]
    assert sent[0, 1] == -1.25 * 2.0**64
    assert torch.equal(BitFlip("bits")(own.double(), own.double()), sent.double())


KINDS = ("std", "unit", "sign")


def distances(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def naive(attack, honest, harm, limit):
    """The largest factor by doubling and halving, every distance from the rows."""
    mean = honest.mean(0)
    p = {"std": -honest.std(0), "unit": -mean / np.linalg.norm(mean), "sign": -np.sign(mean)}[attack]
    low, high = 0.0, 1.0
    while harm(distances((mean + high * p)[None], honest)[0]) <= limit:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if harm(distances((mean + middle * p)[None], honest)[0]) <= limit:
            low = middle
        else:
            high = middle
    return mean + low * p


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 1), (1e4, -1e2)])
def test_min_max_and_min_sum_by_bisection(kind, scale, offset):
    honest = scale * rows(7, 20, torch.float64) + offset
    x = honest.numpy()
    own, pairs = honest[:3], distances(x, x)
    for attack, harm, limit in [
        (MinMax(kind), np.max, pairs.max()),
        (MinSum(kind), np.sum, pairs.sum(1).max()),
        (MinSum(kind, bound="min"), np.sum, pairs.sum(1).min()),
    ]:
        expected = torch.from_numpy(naive(kind, x, harm, limit)).expand(3, 20)
        torch.testing.assert_close(attack(honest, own), expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_min_max_of_close_rows_of_large_norm(kind):
    honest = (1e-2 * rows(6, 50, torch.float64) + 100).float()
    sent = MinMax(kind)(honest, honest[:1]).double()
    reached, limit = distances(sent, honest.double()).max(), distances(honest.double(), honest.double()).max()
    assert float(reached / limit) == pytest.approx(1, abs=2e-3)  # the row itself is rounded to 1e-5


@pytest.mark.parametrize("attack", [MinMax(), MinMax("unit"), MinSum(), MinSum("sign")])
def test_equal_rows_leave_no_room(attack):
    honest = torch.tensor([[1.0, -2.0, 0.5]]).expand(4, 3)
    torch.testing.assert_close(attack(honest, OWN), honest[:2])
    assert torch.equal(attack(torch.zeros(4, 3), OWN), torch.zeros(2, 3))


def test_mimic_finds_the_direction_in_which_workers_differ():
    """Two groups of workers apart along one axis, noise on the others: the top eigenvector is that axis."""
    attack, axis = Mimic(warmup=30), torch.zeros(40)
    axis[17] = 1.0
    side = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -2.0])
    context = AttackContext(honest=(1, 2, 4, 5, 7, 9), byzantine=(0, 3))
    for index in range(30):
        honest = side[:, None] * axis + 0.3 * rows(6, 40, seed=index)
        if index == 29:
            assert abs(float(attack.direction @ axis)) > 0.98
        sent = attack(honest, honest[:2], context)
        assert any(torch.equal(sent[0], row) for row in honest)
    assert attack.found in (9, 1, 2, 7)
    for honest in (rows(6, 40), 100 * rows(6, 40, seed=3)):
        assert torch.equal(attack(honest, honest[:2], context)[0], honest[context.honest.index(attack.found)])


def test_mimic_warmup_by_hand():
    attack, own = Mimic(warmup=2), torch.zeros(1, 2)
    honest = torch.tensor([[3.0, 0.0], [-1.0, 1.0], [-2.0, -1.0]])  # mean 0
    z = honest.T @ (honest @ honest[0])
    z = z / z.norm()
    assert torch.equal(attack(honest, own)[0], honest[0])
    torch.testing.assert_close(attack.direction, z)
    later = torch.tensor([[1.0, 4.0], [-1.0, 0.0], [0.0, -4.0]])  # mean 0
    c = later.T @ (later @ z)
    expected = z + c / c.norm()  # (1 z + c / |c|) / 2, before it is normalised
    reach = later @ expected
    assert torch.equal(attack(later, own)[0], later[reach.argmax()])
    assert attack.found == int(reach.argmax())


@pytest.mark.parametrize("scale", [1e-36, 1e-9, 1e12, 1e36])
def test_mimic_finds_the_same_worker_at_any_scale(scale):
    honest = rows(7, 50)
    honest[4] += 3 * rows(1, 50, seed=1)[0]
    attack, scaled = Mimic(warmup=5), Mimic(warmup=5)
    for index in range(5):
        attack(honest, honest[:3])
        scaled(scale * honest, honest[:3])
        if index < 4:
            torch.testing.assert_close(scaled.direction, attack.direction)
    assert scaled.found == attack.found == 4


def test_a_non_finite_row_does_not_spoil_the_warm_up():
    attack, honest = Mimic(warmup=3), rows(4)
    broken = honest.clone()
    broken[1] = float("nan")
    for matrix in (broken, honest, honest):
        assert attack(matrix, honest[:1]).isfinite().all()
    assert attack.found != 1 or torch.equal(attack(honest, honest[:1])[0], honest[1])


def harm(rule, honest, sent):
    return float((rule.trial(torch.cat([honest, sent])) - honest.mean(0)).norm())


MIXED = PreAggregated([NearestNeighborMixing(2)], TrimmedMean(2))
MIXED3 = PreAggregated([NearestNeighborMixing(3)], TrimmedMean(3))
RULES = [Mean(), TrimmedMean(2), CoordinateMedian(), Krum(2), MultiKrum(2), GeometricMedian(), MIXED]
LINES = [InnerProduct(), ALittleIsEnough(), ALittleIsEnough(direction="above", ddof=1), MinMax("unit")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
@pytest.mark.parametrize("width", [3, 60, 20_000])
def test_line_search_against_many_factors(rule, line, width):
    honest = rows(8, width) + 0.3 * rows(1, width, seed=5)
    origin, direction = line.line(honest, honest[:2])
    scale = float((honest - honest.mean(0)).norm(dim=1).mean() / direction.norm())
    factors = scale * np.logspace(-1.5, 2, 40 if width == 20_000 else 200)
    best = max(harm(rule, honest, (origin + float(x) * direction).expand(2, -1)) for x in factors)
    found = harm(rule, honest, LineSearch(line, rule)(honest, honest[:2]))
    assert found >= best * (0.98 if rule.equivariance in ("rotations", "mixed") else 0.999)


def test_fang_draws_beyond_the_extremes_against_the_mean():
    honest = torch.tensor([[1.0, -3.0, -1.0, -4.0], [2.0, -1.0, 3.0, -2.0], [4.0, 1.0, 4.0, -3.0]])
    ends = torch.tensor([[1.0, 1.0, -1.0, -2.0], [0.5, 2.0, -2.0, -1.0]])
    sent = torch.cat([Fang()(honest, honest, AttackContext(round=t)) for t in range(300)])
    shares = ((sent - ends[0]) / (ends[1] - ends[0])).double()
    for column in shares.T:
        assert kstest(column.numpy(), "uniform").pvalue > 0.01
    wider = Fang(bound=4.0)(honest, honest, AttackContext(round=0))
    assert torch.allclose((wider - ends[0])[:, [1, 2]], 3 * (sent[:3] - ends[0])[:, [1, 2]])


def test_fang_with_partial_knowledge_looks_at_its_own_alone():
    own = torch.tensor([[1.0, -1.0], [3.0, -5.0]])  # 2 and -3, by 1 and 2
    sent = torch.cat([Fang(knowledge="partial")(rows(5, 2), own, AttackContext(round=t)) for t in range(100)])
    low, high = sent.aminmax(dim=0)
    assert torch.allclose(low, torch.tensor([-2.0, 3.0]), atol=0.1)
    assert torch.allclose(high, torch.tensor([-1.0, 5.0]), atol=0.1)


def test_disguise_adds_noise_of_each_attacker_s_own():
    honest, own = rows(5, 10_000), rows(3, 10_000, seed=1)
    plain = ALittleIsEnough(z=1.5)(honest, own)
    context = AttackContext(round=4, seed=2)
    sent = Disguise(ALittleIsEnough(z=1.5), scale=0.2)(honest, own, context)
    noise = (sent - plain) / plain.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.norm(dim=1), torch.full((3,), 0.2), atol=1e-4)
    assert (noise @ noise.T).fill_diagonal_(0).abs().max() < 0.04 * 0.05
    assert kstest((noise[0] / noise[0].std()).numpy(), "norm").pvalue > 0.01
    assert torch.equal(Disguise(Drop())(honest, own), torch.zeros(3, 10_000))
    assert Disguise(Infinity())(honest, own).isinf().all()
    tiny = [1e-50 * x.double() for x in (honest, own)]
    expected = Disguise(Reverse(), 0.5)(honest, own).double()
    torch.testing.assert_close(1e50 * Disguise(Reverse(), 0.5)(*tiny), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match=r"Disguise.scale must be a finite number above 0, got 0"):
        Disguise(Drop(), scale=0.0)
    with pytest.raises(SettingError, match=r"Disguise.attack must be an attack, got str"):
        Disguise("Drop")


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_disguise_adds_its_noise_where_float32_does_not_hold_the_squares(scale):
    honest, own = scale * rows(5, 1000), scale * rows(3, 1000, seed=1)
    plain = Reverse(scale=3.0)(honest, own).double()
    noise = Disguise(Reverse(scale=3.0), scale=0.2)(honest, own) - plain
    lengths = noise.norm(dim=1) / plain.norm(dim=1)
    assert torch.allclose(lengths, torch.full((3,), 0.2).double(), atol=1e-4)


def test_disguise_leaves_rows_that_its_noise_would_make_infinite():
    honest = torch.full((5, 4), 5e37)
    assert torch.equal(Disguise(Reverse(scale=3.0), scale=5.0)(honest, honest[:2]), -3 * honest[:2])


def test_line_search_remembers_what_its_attack_does():
    class Turning(InnerProduct):
        """Turns round each time."""

        remembers = True
        sign = 1.0

        def line(self, honest, own):
            self.sign = -self.sign
            origin, direction = super().line(honest, own)
            return origin, self.sign * direction

        def state_dict(self):
            return {"sign": self.sign}

        def load_state_dict(self, state):
            self.sign = state.get("sign", 1.0)

    honest, own = rows(5, 8), rows(2, 8)
    attack, resumed = (LineSearch(Turning(), TrimmedMean(2)) for _ in range(2))
    assert attack.remembers
    attack(honest, own)
    resumed.load_state_dict(attack.state_dict())
    assert torch.equal(attack(honest, own), resumed(honest, own))


@pytest.mark.parametrize("width", [60, 20_000])
def test_line_search_is_at_least_as_harmful_as_byzfl(width):
    byzfl = pytest.importorskip("byzfl")
    honest = rows(8, width) + 0.3 * rows(1, width, seed=5)
    for rule in (TrimmedMean(2), Krum(2), MIXED):
        for line, peer in (
            (InnerProduct(), byzfl.Optimal_InnerProductManipulation),
            (ALittleIsEnough(direction="above", ddof=1), byzfl.Optimal_ALittleIsEnough),
        ):
            theirs = peer(agg=rule.trial, pre_agg_list=[], f=2)(honest).expand(2, -1)
            ours = LineSearch(line, rule)(honest, honest[:2])
            assert harm(rule, honest, ours) >= harm(rule, honest, theirs) * (1 - 1e-6)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_line_search_against_the_mean_goes_as_far_as_its_numbers(size):
    honest = size * rows(2, 30)
    sent = LineSearch(InnerProduct(), Mean())(honest, honest.repeat(4, 1))
    assert harm(Mean(), honest, sent) > 1e7 * float(honest.norm())
    honest = honest.half()
    sent = LineSearch(InnerProduct(), Mean())(honest, honest.repeat(4, 1))
    assert 2000 < harm(Mean(), honest, sent) < 65504


def test_line_search_asks_for_the_pool_in_order_and_leaves_memory_alone():
    seen, rule = [], CenteredClipping(1.0)
    rule(rows(5))
    before = rule.center

    def aggregate(pool):
        seen.append(pool.clone())
        return rule.trial(pool)

    honest, own = rows(3, seed=1), rows(2, seed=2)
    context = AttackContext(honest=(0, 2, 5), byzantine=(1, 4), aggregate=aggregate)
    sent = LineSearch(ALittleIsEnough(z=1.0), evaluations=9)(honest, own, context)
    assert rule.center is before
    assert len(seen) == 9
    for pool in seen:
        assert torch.equal(pool[[0, 2, 4]], honest)
        assert torch.equal(pool[1], pool[3])
    best = max(seen, key=lambda pool: float((rule.trial(pool).double() - honest.mean(0)).norm()))
    torch.testing.assert_close(sent, best[[1, 3]])


BROKEN = [(Krum(3), 2), (MultiKrum(3), 2), (Meamed(3), 2), (MoNNA(4, reference=6), 1), (MIXED3, 2)]


@pytest.mark.parametrize("width", [6, 60, 20_000])
@pytest.mark.parametrize(("rule", "lost"), BROKEN, ids=lambda value: type(value).__name__)
def test_line_search_tries_what_the_server_gets_where_honest_rows_are_not_finite(rule, lost, width):
    honest, own = rows(7, width) + 0.3 * rows(1, width, seed=5), rows(3, width)
    honest[:lost, 1], finite = torch.nan, honest[lost:]

    def harm(sent):
        return float((rule.trial(torch.cat([honest, sent])) - finite.mean(0)).norm())

    line = ALittleIsEnough()
    origin, direction = line.line(finite, own)
    scale = float((finite - origin).norm(dim=1).mean() / direction.norm())
    best = max(harm((origin + float(x) * direction).expand(3, -1)) for x in scale * np.logspace(-1.5, 2, 40))
    assert harm(LineSearch(line, rule, evaluations=80)(honest, own)) >= 0.98 * best


def test_line_search_counts_the_workers_of_a_round_whose_rows_are_not_finite():
    """A rule whose memory is as large as the round, in one in which none of the honest rows is finite, too."""
    rule, honest, own = Recurrent(weights="mnist_rnn_lstm"), rows(7), rows(3, seed=1)
    for bad in ([0, 3], range(7)):
        honest[bad, 1] = torch.nan
        rule(rows(10, seed=2))
        sent = LineSearch(InnerProduct(), rule, evaluations=8)(honest, own)
        assert sent.isfinite().all()


def test_a_trial_leaves_no_trace():
    rule, matrix = CenteredClipping(1.0), rows(5)
    broken = matrix.clone()
    broken[0] = float("nan")
    rule(broken)
    center = rule.center.clone()
    expected = CenteredClipping(1.0)
    expected(broken)
    assert torch.equal(rule.trial(matrix), rule.trial(matrix))
    assert torch.equal(rule.trial(matrix), expected(matrix))
    assert torch.equal(rule.center, center)
    assert rule.num_nonfinite == 1


def test_alie_in_half_precision_is_not_the_mean():
    honest = 1e-4 * torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    sent = ALittleIsEnough(z=1.5)(honest.half(), honest[:2].half())
    expected = ALittleIsEnough(z=1.5)(honest, honest[:2])
    shift = (expected[0] - honest.mean(0)).norm()
    assert sent.dtype == torch.float16
    assert (sent[0].float() - expected[0]).norm() < 0.02 * shift


def test_a_non_finite_row_is_no_part_of_the_mean_of_the_warm_up():
    attack, honest = Mimic(warmup=3), torch.tensor([[3.0, 0.0], [-1.0, 1.0], [-2.0, 2.0]])
    broken = honest.clone()
    broken[1, 0] = float("inf")
    attack(honest, honest[:1])
    attack(broken, honest[:1])
    assert torch.allclose(
        attack.mean, torch.tensor([0.25, 1.0])
    )  # of (0, 1), and of the two that are left (0.5, 1)


def test_line_search_asks_nothing_for_a_factor_it_does_not_use():
    attack = LineSearch(ALittleIsEnough(), CoordinateMedian())
    attack.check(10, 7)
    attack.check_round(5, 4)
    assert attack(torch.randn(1, 4), torch.randn(4, 4)).shape == (4, 4)


@pytest.mark.parametrize(
    "rule", [GeometricMedian(), CoordinateMedian(), Mean()], ids=lambda r: type(r).__name__
)
def test_line_search_sends_rows_that_half_precision_holds(rule):
    honest = rows(6, 8).half() * 1000
    sent = LineSearch(InnerProduct(), rule)(honest, honest[:4])
    assert sent.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", [Krum(2), MIXED], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_line_search_against_rules_that_see_how_rows_are_rounded(rule, dtype, seed):
    honest = (rows(8, 20_000, seed=seed) + 0.3 * rows(1, 20_000, seed=50 + seed)).to(dtype)
    origin, direction = ALittleIsEnough().line(honest, honest[:2])
    factors = np.logspace(-1.5, 1.5, 40)
    best = max(harm(rule, honest, (origin + float(x) * direction).expand(2, -1).to(dtype)) for x in factors)
    assert harm(rule, honest, LineSearch(ALittleIsEnough(), rule)(honest, honest[:2])) >= 0.9 * best


@pytest.mark.parametrize("rule", [CoordinateMedian(), CenteredClipping(1.0)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_line_search_tries_no_factor_that_float32_does_not_hold(rule, scale):
    class Signs(InnerProduct):
        def line(self, honest, own):
            return honest.mean(0), -scale * honest.mean(0).sign()

    honest = 1e36 * rows(7, 50)
    assert LineSearch(Signs(), rule)(honest, honest[:3]).isfinite().all()


def test_disguise_in_half_precision_leaves_rows_that_its_noise_would_make_infinite():
    honest = torch.full((4, 3), 21_000.0).half()
    disguise, noisy = Disguise(Reverse(scale=3.0), scale=0.5), 0
    for index in range(6):
        sent = disguise(honest, honest[:2], AttackContext(round=index))
        assert sent.isfinite().all()
        noisy += int((sent != -3 * honest[:2]).any(dim=1).sum())
    assert noisy < 12


def test_what_is_no_tensor_is_told():
    with pytest.raises(SettingError, match=r"honest and own must be torch.Tensors, got ndarray and Tensor"):
        Reverse()(rows(3).numpy(), rows(2))


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
@pytest.mark.parametrize(
    "attack",
    [ALittleIsEnough(1.5), MinMax(), MinMax("unit"), MinSum(), MinSum("unit"), Fang(knowledge="partial")],
    ids=lambda a: type(a).__name__,
)
def test_rows_whose_squares_overflow_or_vanish(attack, scale):
    honest = rows(5, 40)
    context = AttackContext(round=3)
    scaled = attack(scale * honest, scale * honest[:3], context)
    torch.testing.assert_close(scaled / scale, attack(honest, honest[:3], context), rtol=1e-5, atol=1e-5)


def test_line_search_where_clipping_leaves_rows_of_one_length():
    """Which of them a rule by lengths keeps is decided by rounding, so none but the whole matrix tells."""
    torch.manual_seed(2)
    honest = torch.randn(8, 40) * torch.logspace(-2, 1, 40)
    rule = PreAggregated([AdaptiveClipping(3)], CGE(3))
    assert rule.equivariance is None
    own = torch.zeros(3, 40)
    found = harm(rule, honest, LineSearch(ALittleIsEnough(), rule)(honest, own))
    assert found >= 0.9 * max(
        harm(rule, honest, ALittleIsEnough(z=z)(honest, own)) for z in (0.5, 1.0, 1.5, 2.0, 3.0)
    )
