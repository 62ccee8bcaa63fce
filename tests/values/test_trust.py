"""Trust that is learned: what the judge reads, whom it sees, and what it is trained on."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_agg.aggregators import Context, Recurrent
from lightning_agg.aggregators.copies import copies_and_same, kinds_of
from lightning_agg.aggregators.recurrent_settings import write_weights
from lightning_agg.aggregators.seen import Seen
from lightning_agg.aggregators.trust_by_judge import TrustByJudge
from lightning_agg.aggregators.trust_judge import EVIDENCE, UNITS, JudgePanel
from lightning_agg.aggregators.worker_trust import Judged, public_gradient
from lightning_agg.errors import SettingError
from lightning_agg.modules import MetaLearner, TrustTraining
from lightning_agg.modules.trust_training import log_errors
from lightning_agg.trust_example import TrustExample, example_of_round, stacked

LEARNED = {"trust": "learned", "gate": True, "worker_order": "trust", "scale": "trusted", "slots": 4}
D = 6


def server(rows, descents, gradient):
    """Knows the descent of a trial step along each of ``rows``, in their order, and this public gradient."""
    return Context(
        parameters=lambda: torch.zeros(D),
        public_losses=lambda vectors, num_samples: torch.tensor([5.0, *(5 - d for d in descents)]),
        public_gradient=lambda num_samples: torch.tensor(gradient, dtype=torch.float32),
    )


def unseen(workers):
    empty = torch.zeros(0)
    sums, judged = torch.zeros(workers, 5), torch.zeros(workers, UNITS)
    each = torch.zeros(workers)
    return Seen(*[empty] * 7, sums, judged, each, each, torch.zeros(1))._replace(direction=torch.zeros(D))


def evidence_of(rows, context, seen, step, trust_horizon=0):
    trust = TrustByJudge(
        JudgePanel(1),
        5.0,
        trust_horizon,
        trust_floor=-3.0,
        merge_copies=False,
        early_samples=0,
        trial_step=0.1,
        num_samples=8,
    )
    kinds, copies = kinds_of(rows, torch.eye(len(rows))), copies_and_same(rows)[0]
    return trust.evidence(kinds, copies, public_gradient(context, 8, rows), context, seen, step)


def by_numpy(rounds):
    """The evidence on each worker in the last of ``rounds`` of (rows, descents, public gradient, workers), as its docstrings say."""
    said, direction, decays = {}, 0.0, np.array([1, 0.9, 1, 0.95, 1])

    def cosine(a, b):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def by_best(x, best=None):
        return np.clip(x / (abs(x.max() if best is None else best) + 1e-6), -3, 3)

    for rows, descents, gradient, workers in rounds:
        rows, gradient = np.array(rows, float), np.array(gradient, float)
        descents = np.clip(np.array(descents, float), -1, 1)
        direction = 0.9 * direction + gradient / np.linalg.norm(gradient)
        m, size, lengths = len(rows), np.linalg.norm(gradient), np.linalg.norm(rows, axis=1)
        public = np.array([cosine(row, gradient) for row in rows])
        summed = np.array([cosine(row, direction) for row in rows])
        others = [sorted(cosine(rows[i], rows[j]) for j in range(m) if j != i) for i in range(m)]
        others = [[max(values[0], 0.0)] for values in others] if m == 2 else others
        middle = np.array([values[(m - 2) // 2] for values in others])
        latest = np.stack([descents, descents, summed, public, middle], 1)
        for worker, row in zip(workers, latest, strict=True):
            said.setdefault(worker, []).append(row)
        # Of each worker, the mean over the rounds that it took part in, in which the last ones may count more.
        usual = {}
        for worker, history in said.items():
            shares = np.stack([decays**age for age in range(len(history))][::-1])
            usual[worker] = (shares * np.stack(history)).sum(0) / shares.sum(0)
        best = np.max(list(usual.values()), axis=0)
        own = np.stack([usual[worker] for worker in workers])
        everything, late, agreed, along, peers = map(by_best, own.T, best)
        median = np.sort(np.log(lengths))[(m - 1) // 2]
        near = np.array(
            [
                [np.linalg.norm(rows[i] - rows[j]) <= 0.1 * min(lengths[i], lengths[j]) for j in range(m)]
                for i in range(m)
            ]
        )
    columns = [
        by_best(descents), everything, late, public, summed, agreed, along, middle, np.array([np.mean(v) for v in others]), peers,
        np.clip(np.log(lengths) - median, -3, 3), np.clip(np.log(lengths / size), -3, 3), 1 / near.sum(1), np.array([v[-1] for v in others]),
        np.full(m, math.log1p(len(rounds) - 1) / math.log1p(100)), np.clip(lengths * public / size, -3, 3), np.minimum(everything, agreed),
    ]  # fmt: skip
    return torch.tensor(np.stack(columns, 1), dtype=torch.float32)


def three_rounds():
    rng = np.random.default_rng(0)
    rounds = []
    for _ in range(3):
        rows = rng.normal(size=(5, D))
        rows[4] = 1.05 * rows[3]
        rows[0] *= 300
        rounds.append((rows.tolist(), rng.normal(size=5).tolist(), rng.normal(size=D).tolist(), range(5)))
    return rounds


def sampled_rounds():
    """In which two to four of seven workers take part, one of whom never does."""
    rng = np.random.default_rng(1)
    return [
        (
            rng.normal(size=(len(workers), D)).tolist(),
            rng.normal(size=len(workers)).tolist(),
            rng.normal(size=D).tolist(),
            workers,
        )
        for workers in ([0, 2, 3, 6], [2, 5], [3, 4, 5], [2, 6], [0, 5, 6])
    ]


def read(rounds, seen):
    found = []
    for step, (rows, descents, gradient, workers) in enumerate(rounds):
        context = replace(server(rows, descents, gradient), workers=torch.tensor(workers))
        values, seen = evidence_of(torch.tensor(rows), context, seen, step)
        found.append(values)
    return found, seen


def test_the_evidence_is_that_of_an_independent_implementation():
    rounds = three_rounds()
    found, _ = read(rounds, unseen(5))
    for count in (1, 2, 3):
        assert torch.allclose(found[count - 1], by_numpy(rounds[:count]), atol=2e-5)
    assert found[2].shape == (5, EVIDENCE)


def test_the_evidence_on_workers_who_do_not_always_take_part():
    rounds = sampled_rounds()
    found, seen = read(rounds, unseen(7))
    for count in range(1, len(rounds) + 1):
        assert torch.allclose(found[count - 1], by_numpy(rounds[:count]), atol=2e-5)
    assert seen.heard.tolist() == [2, 0, 3, 2, 1, 3, 3]


def test_evidence_is_on_workers_not_on_rows():
    """Of six workers 5, 0, 2 take part, then 0 and 4, whose row is dropped: nothing but that counts against 4."""
    rows = [row[:3] for row in (three_rounds()[0][0], three_rounds()[1][0])]
    context = server(rows[0], [0.3, 0.2, 0.1], [1.0] * D)
    _, seen = evidence_of(
        torch.tensor(rows[0]), replace(context, workers=torch.tensor([5, 0, 2])), unseen(6), 0
    )
    assert seen.sums[[5, 0, 2], 0].tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert not seen.sums[[1, 3, 4]].any()
    dropped = replace(
        server(rows[1], [0.4], [1.0] * D),
        workers=torch.tensor([0, 4]), finite=torch.tensor([True, False]),
    )  # fmt: skip
    _, after = evidence_of(torch.tensor(rows[1][:1]), dropped, seen, 1)
    assert after.sums[0, :2].tolist() == pytest.approx([0.2 + 0.4, 0.9 * 0.2 + 0.4])
    assert after.sums[4].tolist() == [-1.0] * 5
    assert torch.equal(after.sums[[1, 2, 3, 5]], seen.sums[[1, 2, 3, 5]])


@pytest.mark.parametrize("gradient", [[math.nan] * D, [0.0] * D, [1e30, -1e38, 1e20, 0.0, 1.0, 2.0]])
def test_evidence_is_finite(gradient):
    rows = torch.zeros(3, D)
    rows[0], rows[1, 0] = 1e15, 1e-30
    context = server(rows, [math.nan, math.inf, -math.inf], gradient)
    found, seen = evidence_of(rows, context, unseen(3), 0)
    assert found.isfinite().all()
    assert seen.sums.isfinite().all()
    alone, _ = evidence_of(rows[:1], server(rows[:1], [0.1], gradient), unseen(1), 0)
    assert alone.isfinite().all()


def random_judges(count=1):
    judges = JudgePanel(count)
    for seed, judge in enumerate(judges):
        torch.manual_seed(seed)
        for p in judge.parameters():
            torch.nn.init.normal_(p, std=0.5)
    return judges


def random_judge():
    return random_judges()[0]


@torch.no_grad()
def test_the_order_of_the_workers_is_nothing_to_the_judge():
    judge, order = random_judge(), torch.randperm(7)
    said, memory = torch.randn(7, EVIDENCE), torch.randn(7, UNITS)
    present = torch.tensor([True] * 5 + [False] * 2)
    logits, after = judge(said, memory, present)
    mixed, after_mixed = judge(said[order], memory[order], present[order])
    assert torch.allclose(mixed, logits[order], atol=1e-6)
    assert torch.allclose(after_mixed, after[order], atol=1e-6)


@torch.no_grad()
def test_who_is_absent_is_neither_seen_nor_forgotten():
    judge, memory = random_judge(), torch.randn(6, UNITS)
    said, present = torch.randn(6, EVIDENCE), torch.tensor([True, True, False, True, False, True])
    logits, after = judge(said, memory, present)
    assert torch.equal(after[~present], memory[~present])
    alone, alone_after = judge(said[present], memory[present], torch.ones(4, dtype=torch.bool))
    assert torch.allclose(alone, logits[present], atol=1e-6)
    assert torch.allclose(alone_after, after[present], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("count", "middle"), [(1, 0), (3, 1), (4, 1), (5, 2)])
def test_of_several_judges_the_median_counts_and_each_remembers(count, middle):
    judges, said, memory = random_judges(count), torch.randn(6, EVIDENCE), torch.randn(6, count * UNITS)
    present = torch.tensor([True] * 5 + [False])
    logits, after = judges(said, memory, present)
    each = [judge(said, memory[:, UNITS * k : UNITS * (k + 1)], present) for k, judge in enumerate(judges)]
    for worker in range(6):
        assert logits[worker] == sorted(logit[worker] for logit, _ in each)[middle]
    assert torch.equal(after, torch.cat([own for _, own in each], 1))


def known(rows=None):
    return server(rows, [0.1 * (i + 1) for i in range(4)], [1.0] * D)


def test_before_training_all_are_trusted_alike():
    rows = torch.randn(4, D, generator=torch.Generator().manual_seed(0))
    rule = Recurrent(**LEARNED)
    seen = rule.features.unseen(4, rows)
    found = rule.features(rows, known(), seen, 0)
    center = found.inputs[4] * found.scale
    assert torch.allclose(center, rows.mean(0), atol=1e-6)
    assert not rule.trained


def test_the_judge_weighs_the_rows():
    rows = torch.randn(4, D, generator=torch.Generator().manual_seed(0))
    rule = Recurrent(**LEARNED)
    rule.judges[0].load_state_dict(random_judge().state_dict())
    seen = rule.features.unseen(4, rows)
    found = rule.features(rows, known(), seen, 0)
    said, _ = evidence_of(rows, known(), seen, 0)
    logits, memory = rule.judges(said, seen.judged, torch.ones(4, dtype=torch.bool))
    weights = logits.sigmoid().double()
    weights = (weights / weights.max() - 0.05).clamp_min(0)
    assert 0 < weights.min() < 0.7 * weights.max()
    expected = (weights @ rows.double() / weights.sum()).float()
    assert torch.allclose(found.inputs[4] * found.scale, expected, atol=1e-5)
    assert torch.equal(found.seen.judged, memory)
    assert torch.equal(found.judged.evidence, said)


def test_a_row_of_any_length_can_count_for_nothing():
    """A weight of a thousandth would not be enough."""
    rows, rule = torch.ones(4, D), Recurrent(**LEARNED)
    rows[3] = 1e12
    with torch.no_grad():
        rule.judges[0].out.weight[0, UNITS:] = 1.0
        rule.judges[0].enc.weight.zero_()
        rule.judges[0].enc.weight[:, 10] = -5.0  # the length, beside the median
    found = rule.features(rows, known(), rule.features.unseen(4, rows), 0)
    assert torch.allclose(found.inputs[4] * found.scale, torch.ones(D))


def test_nobody_is_trusted_of_whom_all_that_sums_up_is_below_the_floor():
    """Of four, the second goes the other way; the third lowers the loss little, and the last raises it but goes the same way."""
    rows = torch.zeros(4, D)
    rows[:, 0] = torch.tensor([1.0, -1.0, 0.1, 1.0])
    context = server(rows, [0.2, -0.12, 0.01, -0.2], [1.0] + [0.0] * (D - 1))
    for floor, trusted in ((-3.0, [True] * 4), (-0.61, [True] * 4), (-0.59, [True, False, True, True])):
        features = Recurrent(**LEARNED, trust_floor=floor).features
        found = features.trusted(rows, context, features.unseen(4, rows), 0)
        assert (found.weights > 0).tolist() == trusted
        assert found.weights[found.weights > 0].tolist() == [1.0] * sum(trusted)
        again = features.trusted(rows, context, found.seen, 1)
        assert (again.weights > 0).tolist() == trusted


def test_who_is_alone_is_trusted_above_any_floor():
    rows, features = torch.ones(1, D), Recurrent(**LEARNED, trust_floor=0.0).features
    found = features.trusted(rows, server(rows, [-0.2], [-1.0] * D), features.unseen(1, rows), 0)
    assert found.weights.tolist() == [1.0]


def alone_and_copied(copies, merge_copies=True):
    """What becomes, in the second round, of three workers by themselves, and with others who send what the last one does."""
    of = [0, 1, 2, *[2] * copies]
    rounds = 0.5 * torch.randn(2, 3, D, generator=torch.Generator().manual_seed(3)) + 0.2
    context = Context(  # the loss is a quadratic one around -1
        parameters=lambda: torch.zeros(D),
        public_losses=lambda vectors, num_samples: 0.1 * (vectors + 1).square().sum(1),
        public_gradient=lambda num_samples: torch.full((D,), 0.2),
    )
    rule, found = Recurrent(**LEARNED, merge_copies=merge_copies), []
    rule.judges[0].load_state_dict(random_judge().state_dict())
    for sent in ([0, 1, 2], of):
        seen = rule.features.unseen(len(sent), rounds[0])
        for step, rows in enumerate(rounds):
            trusted = rule.features.trusted(rows[sent], context, seen, step)
            seen = trusted.seen
        found.append(trusted)
    return of, rows, *found


@torch.no_grad()
@pytest.mark.parametrize("copies", [1, 6])
def test_merged_copies_say_what_one_of_them_would(copies):
    of, rows, alone, copied = alone_and_copied(copies)
    assert 0.1 < alone.weights.min() < alone.weights.max()
    assert torch.allclose(copied.judged.evidence, alone.judged.evidence[of], atol=1e-5)
    assert torch.allclose(copied.trust, alone.trust[of], atol=1e-5)
    means = [
        found.weights @ sent / found.weights.sum() for found, sent in ((alone, rows), (copied, rows[of]))
    ]
    assert torch.allclose(*means, atol=1e-5)
    assert torch.allclose(copied.number, alone.number, atol=1e-5)
    assert copied.judged.counts.tolist() == pytest.approx([1, 1, *[1 / (1 + copies)] * (1 + copies)])
    _, _, _, kept = alone_and_copied(copies, merge_copies=False)
    assert kept.judged.counts.tolist() == [1.0] * len(of)
    assert not torch.allclose(kept.trust, alone.trust[of], atol=0.01)


def test_where_all_rows_are_nearly_the_same_none_are_merged():
    rows, features = torch.ones(4, D), Recurrent(**LEARNED, merge_copies=True).features
    rows[1] = 1.01
    found = features.trusted(rows, known(), features.unseen(4, rows), 0)
    assert found.judged.counts.tolist() == [1.0] * 4
    assert found.number.item() == pytest.approx(16 / 10)  # three of which are one


def test_copies_of_copies_are_of_one_kind():
    """Each is within a tenth of the next one, the first not of the third."""
    rows = torch.tensor([[1.0, 5.0], [1.0, 0.0], [1.08, 0.0], [0.0, 1.0], [1.16, 0.0]])
    copies, _ = copies_and_same(rows)
    assert not copies[1, 4]
    for order in itertools.permutations(range(5)):
        kinds = kinds_of(rows[list(order)], copies[list(order)][:, list(order)])
        found = kinds.rows[kinds.of_row]
        expected = torch.tensor([[1.0, 5.0], [1.08, 0.0], [1.08, 0.0], [0.0, 1.0], [1.08, 0.0]])
        assert torch.allclose(found, expected[list(order)])
        assert kinds.counts.tolist() == pytest.approx([[1, 1 / 3, 1 / 3, 1, 1 / 3][i] for i in order])


def test_the_first_public_gradients_are_on_more_samples():
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    asked, context = [], server(rows, [0.1, 0.2, 0.3], [1.0] * D)
    context = replace(context, public_gradient=lambda n: asked.append(n) or torch.ones(D))
    for early, needed in ((0, 8), (5, 8), (50, 50)):
        rule = Recurrent(**LEARNED, num_samples=8, early_samples=early)
        assert rule.public_samples == needed
        for step in (0, 19, 20):
            rule.features.trusted(rows, context, rule.features.unseen(3, rows), step)
    assert asked == [8, 8, 8, 8, 8, 8, 50, 50, 8]


def test_past_the_horizon_of_their_training_sums_forget_more_slowly():
    """A sum with decay 0.9, of descents, and one with 0.95, of cosines with the public gradient, in round 4 of a horizon of 2."""
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    context, seen = server(rows, [0.1, 0.2, -0.1], [1.0] * D), unseen(3)
    within = [evidence_of(rows, context, seen, 1, horizon)[1].sums for horizon in (0, 2)]
    assert torch.equal(*within)
    later = seen._replace(sums=within[0], heard=torch.ones(3))
    usual, slower = (evidence_of(rows, context, later, 3, horizon)[1].sums for horizon in (0, 2))
    kept = (slower - usual) / within[0]
    assert torch.allclose(kept, torch.tensor([0.0, 0.05, 0.0, 0.025, 0.0]).expand(3, 5), atol=1e-4)
    given = Recurrent(**LEARNED, trust_horizon=2)
    start = given.features.unseen(3, rows)
    later = start._replace(sums=within[0], heard=torch.ones(3))
    found = given.features.trusted(rows, context, later, 3).seen.sums
    assert torch.allclose(found, slower)


def test_no_row_counts_for_more_than_a_usual_one():
    """Five times as long as the public gradient, or as that usually is, whichever is longer."""
    rule = Recurrent(**LEARNED)
    rows = torch.eye(4, D) * torch.tensor([[1.0], [20.0], [3.0], [1e6]])
    first = rule.features(
        rows, server(rows, [0.1] * 4, [0.0, 2.0, 0, 0, 0, 0]), rule.features.unseen(4, rows), 0
    )
    assert first.judged.cut.tolist() == pytest.approx([1.0, 0.5, 1.0, 1e-5])
    center = first.inputs[4] * first.scale
    assert center.tolist() == pytest.approx([0.25, 2.5, 0.75, 2.5, 0, 0])
    assert first.seen.length.item() == 2
    smaller = server(rows, [0.1] * 4, [0.0, 1.0, 0, 0, 0, 0])
    second = rule.features(rows, smaller, first.seen, 1)
    assert second.seen.length.item() == pytest.approx(1.9)
    assert second.judged.cut.tolist() == pytest.approx([1.0, 9.5 / 20, 1.0, 9.5e-6])
    nothing = server(rows, [0.1] * 4, [0.0] * D)
    assert rule.features(rows, nothing, rule.features.unseen(4, rows), 0).judged.cut.tolist() == [1.0] * 4
    shorter = Recurrent(**LEARNED, length_limit=2.0).features
    assert shorter(rows, smaller, shorter.unseen(4, rows), 0).judged.cut.tolist() == pytest.approx(
        [1.0, 0.1, 2 / 3, 2e-6]
    )
    rows = torch.randn(3, D)
    given = example_of_round(
        rows,
        torch.ones(3).bool(),
        Judged(torch.zeros(3, EVIDENCE), torch.ones(3), torch.tensor([1.0, 0.5, 1.0])),
    )
    cut = rows * torch.tensor([[1.0], [0.5], [1.0]])
    assert torch.allclose(given.products, cut @ cut.T / cut.mean(0).square().sum(), rtol=1e-4)


def test_the_influence_of_the_rows_is_their_weight():
    rows = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0))
    rows[1, 3] = torch.nan
    rule = Recurrent(**{**LEARNED, "slots": 5})
    rule.judges[0].load_state_dict(random_judge().state_dict())

    def known(count):
        return server(rows, [0.1 * (i + 1) for i in range(count)], [1.0] * D)

    for gradients, count in zip(rows, (5, 4), strict=True):
        finite = gradients[gradients.isfinite().all(1)]
        before = {name: buffer.clone() for name, buffer in rule.memory().items()}
        influence = rule.influence(gradients, known(count))
        assert all(torch.equal(before[name], buffer) for name, buffer in rule.memory().items())
        context = replace(known(count), pool_size=5)
        if count == 4:
            context = replace(context, finite=gradients.isfinite().all(1))
        seen = rule._seen() if int(rule.step) else rule.features.unseen(5, finite)
        found = rule.features(finite, context, seen, int(rule.step))
        expected = influence[gradients.isfinite().all(1)] @ (found.judged.cut[:, None] * finite)
        assert torch.allclose(found.inputs[5] * found.scale, expected, atol=1e-5)
        assert influence.sum().item() == pytest.approx(1)
        rule(gradients, known(count))
    assert influence[3] == 0
    assert Recurrent().influence(torch.randn(10, D)) is None


def test_who_is_distrusted_counts_for_nothing_among_his_like():
    """In a round without any honest worker, the trusted ones are remembered."""
    rule = Recurrent(**LEARNED)
    with torch.no_grad():
        rule.judges[0].out.weight[0, UNITS:] = 5.0
        rule.judges[0].enc.weight.zero_()
        rule.judges[0].enc.weight[:, 3] = 1.0  # the cosine with the public gradient
    rows = torch.ones(4, D) * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    first = rule.features(rows, known(), rule.features.unseen(4, rows), 0)
    assert torch.allclose(first.inputs[4] * first.scale, torch.ones(D))
    alone = replace(server(None, [0.1, 0.2], [1.0] * D), workers=torch.tensor([2, 3]), pool_size=4)
    second = rule.features(rows[2:], alone, first.seen, 1)
    assert not second.inputs[4].any()
    assert not second.scale.any()
    assert torch.equal(second.seen.verdict[:2], first.seen.verdict[:2])
    both = replace(server(None, [0.1, 0.2], [1.0] * D), workers=torch.tensor([1, 3]), pool_size=4)
    third = rule.features(rows[1::2], both, second.seen, 2)
    assert torch.allclose(third.inputs[4] * third.scale, torch.ones(D))


def test_whom_the_judge_never_read_of_is_no_measure():
    """A worker all of whose rows were dropped has been heard, but not judged."""
    rule = Recurrent(**LEARNED)
    rule.judges[0].out.bias.data.fill_(math.log(0.3 / 0.7))
    rows = torch.stack([torch.ones(D), torch.arange(D).float(), -torch.ones(D)])
    finite = torch.tensor([True, True, False, True])
    context = replace(server(None, [0.1, 0.2, 0.3], [1.0] * D), finite=finite, num_dropped=1)
    found, seen = [], rule.features.unseen(4, rows)
    for step in range(2):
        trusted = rule.features.trusted(rows, context, seen, step)
        found.append((trusted.weights.tolist(), trusted.number.item()))
        seen = trusted.seen
    assert seen.heard.tolist() == [2.0] * 4
    assert found == [([1.0] * 3, 3.0)] * 2


def test_before_all_have_been_heard_nobody_need_be_trusted():
    """The first rounds of part of the workers may have no honest one: there, the best is measured by a weight of a half."""
    rule = Recurrent(**LEARNED)
    some = replace(server(None, [0.1, 0.2], [1.0] * D), workers=torch.tensor([2, 3]), pool_size=4)
    others = replace(some, workers=torch.tensor([0, 1]))
    for weight, expected in ((1e-6, 0.0), (0.3, (0.6 - 0.05) / 0.95), (0.5, 1.0), (0.9, 1.0)):
        rule.judges[0].out.bias.data.fill_(math.log(weight / (1 - weight)))
        rows = torch.stack([torch.ones(D), torch.arange(D).float()])
        first = rule.features.trusted(rows, some, rule.features.unseen(4, rows), 0)
        assert first.weights.tolist() == pytest.approx([expected] * 2, abs=1e-6)
        assert first.number.item() == pytest.approx(2 * expected)
        second = rule.features.trusted(rows, others, first.seen, 1)
        assert second.weights.tolist() == pytest.approx([1.0] * 2, abs=1e-6)


def test_nobody_is_far_enough_below_for_no_step():
    """However surely the judge distrusts everyone, the best of them counts."""
    rows, rule = torch.ones(4, D), Recurrent(**LEARNED)
    rule.judges[0].out.bias.data.fill_(-1000.0)
    found = rule.features(rows, known(), rule.features.unseen(4, rows), 0)
    assert torch.allclose(found.inputs[4] * found.scale, torch.ones(D))


def test_learned_trust_is_saved_and_loaded(tmp_path):
    rule = Recurrent(**LEARNED, seed=3)
    rule.judges[0].load_state_dict(random_judge().state_dict())
    rule.save(tmp_path / "judged.safetensors")
    loaded = Recurrent(weights=str(tmp_path / "judged.safetensors"))
    assert loaded.trained
    assert loaded.remembers_workers
    rows = torch.randn(3, 4, D)
    for gradients in rows:
        assert torch.equal(rule(gradients, known()), loaded(gradients, known()))
    # By the rule again: what the judge has learned is left where it is.
    ruled = Recurrent(weights=str(tmp_path / "judged.safetensors"), trust="losses", trust_decay=1.0)
    assert ruled.judges is None
    assert ruled.architecture["trust_decay"] == 1.0
    tensors = rule.judges[0].state_dict()
    torn = Recurrent(**LEARNED)
    torn.judges[0].out = torch.nn.Linear(3, 1)
    torn.save(tmp_path / "torn.safetensors")
    assert tensors["out.weight"].shape == (1, 2 * UNITS)
    silent = Recurrent(**LEARNED)
    write_weights(tmp_path / "silent.safetensors", silent.architecture, silent.network.state_dict())
    for name in ("torn", "silent"):
        with pytest.raises(SettingError, match=f"{name}.safetensors do not fit"):
            Recurrent(weights=str(tmp_path / f"{name}.safetensors"))


def test_the_number_of_judges_is_that_of_the_weights(tmp_path):
    rule, file = Recurrent(**LEARNED, num_judges=3), str(tmp_path / "three.safetensors")
    rule.judges.load_state_dict(random_judges(3).state_dict())
    rule.save(file)
    loaded, rows = Recurrent(weights=file), torch.randn(4, D)
    assert len(loaded.judges) == 3
    assert torch.equal(rule(rows, known()), loaded(rows, known()))
    assert rule.judged.shape == (4, 3 * UNITS)
    assert Recurrent(weights=file, trust="losses").judges is None
    with pytest.raises(SettingError, match="num_judges must be that of the weights, or null"):
        Recurrent(weights=file, num_judges=2)


def test_the_limit_of_the_length_is_that_of_the_weights_unless_it_is_given(tmp_path):
    file = str(tmp_path / "short.safetensors")
    Recurrent(**LEARNED, length_limit=2.0).save(file)
    assert Recurrent(weights=file).features.length_limit == 2
    assert Recurrent(weights=file, length_limit=5.0).features.length_limit == 5
    assert Recurrent(weights=file, trust="losses").architecture["length_limit"] == 5


def test_weights_trained_with_the_rule_begin_with_untrained_judges():
    rule = Recurrent(weights="mnist_rnn_lstm", loss_information=True, trust="learned", num_judges=2)
    assert not rule.trained
    assert len(rule.judges) == 2
    assert not any(judge.out.weight.any() for judge in rule.judges)
    assert not any(
        rule.architecture[name]
        for name in ("trust_decay", "trust_margin", "direction_decay", "distrust_copies")
    )
    same = Recurrent(weights="mnist_rnn_lstm").network.state_dict()
    assert torch.equal(rule.network.state_dict()["output"], same["output"])


def test_it_remembers_and_forgets():
    rule = Recurrent(**LEARNED)
    rule.judges[0].load_state_dict(random_judge().state_dict())
    rows = torch.randn(3, 4, D)
    first = [rule(gradients, known()) for gradients in rows]
    assert rule.judged.any()
    copy = Recurrent(**LEARNED)
    copy.load_state_dict(rule.state_dict())
    assert torch.equal(copy(rows[0], known()), rule(rows[0], known()))
    rule.reset()
    assert torch.equal(rule(rows[0], known()), first[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trust": "learned"}, "trust learned needs gate true or worker_order trust, got neither"),
        ({**LEARNED, "trust_decay": 0.9}, "trust_decay must be 0 or false where trust is learned: it is of trust by a rule, got 0.9"),
        ({"num_judges": 3}, "num_judges needs trust learned, got 3 and losses"),
        ({**LEARNED, "num_judges": 0}, "num_judges must be an integer of at least 1, got 0"),
        ({"trust_horizon": 100}, "trust_horizon needs trust learned, got 100 and losses"),
        ({**LEARNED, "trust_horizon": -1}, "trust_horizon must be an integer of at least 0, got -1"),
        ({"trust_floor": -0.5}, "trust_floor needs trust learned, got -0.5 and losses"),
        ({**LEARNED, "trust_floor": -4.0}, "trust_floor must be in [-3, 0], got -4.0"),
        ({**LEARNED, "trust_floor": 0.5}, "trust_floor must be in [-3, 0], got 0.5"),
        ({"merge_copies": True}, "merge_copies needs trust learned, got True and losses"),
        ({"early_samples": 512}, "early_samples needs trust learned, got 512 and losses"),
        ({**LEARNED, "early_samples": -1}, "early_samples must be an integer of at least 0, got -1"),
        ({"length_limit": 2.0}, "length_limit needs trust learned, got 2.0 and losses"),
        ({**LEARNED, "length_limit": 0.0}, "length_limit must be a finite number above 0, got 0.0"),
        ({**LEARNED, "distrust_copies": True}, "distrust_copies must be 0 or false where trust is learned"),
    ],
)  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        Recurrent(**settings)


def judged(workers, present):
    return Judged(torch.zeros(workers, EVIDENCE), present, torch.ones(int(present.sum())))


def test_an_example_is_in_parts_of_the_honest_mean():
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    present, honest = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    given = example_of_round(rows, honest, judged(4, present))
    assert given.honest.tolist() == [True, False, False, True]
    mean = rows[[0, 2]].mean(0)
    expected = torch.zeros(4, 4)
    index = torch.tensor([0, 2, 3])
    expected[index[:, None], index] = rows @ rows.T / mean.square().sum()
    assert torch.allclose(given.products, expected, rtol=1e-4, atol=1e-5)
    silent = example_of_round(rows, torch.tensor([False, True, False, False]), judged(4, present))
    assert not silent.products.any()
    huge = rows.clone()
    huge[1] = 1e15
    huge[0] = huge[2] = 1e-20
    assert example_of_round(huge, honest, judged(4, present)).products.isfinite().all()


def test_the_error_of_the_weighted_mean():
    rows = torch.randn(5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    honest, weights = (
        torch.tensor([1.0, 1, 0, 1, 0]).double(),
        torch.tensor([0.9, 0.1, 0.5, 0.0, 1.0]).double(),
    )
    present = torch.ones(5, dtype=torch.bool)
    products = example_of_round(rows, honest.bool(), judged(5, present)).products.double()
    found, defined = log_errors(weights, honest, products)
    mean = rows[honest.bool()].mean(0)
    error = (weights @ rows / weights.sum() - mean).square().sum() / mean.square().sum()
    assert found.item() == pytest.approx(math.log(0.05 + error), rel=1e-5)
    assert defined
    exact, _ = log_errors(honest, honest, products)
    assert exact.item() == pytest.approx(math.log(0.05), rel=1e-6)
    assert not log_errors(weights, honest, torch.zeros(5, 5).double())[1]


def windows(count, rounds=4, workers=6, seed=0):
    """Liars are those whose first number is negative; their rows are the opposite of the honest ones'."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        honest = torch.rand(workers, generator=generator) < 0.5
        honest[0] = True
        task = []
        for _ in range(rounds):
            said = torch.randn(workers, EVIDENCE, generator=generator)
            said[:, 0] = torch.where(honest, 1.0, -1.0) * said[:, 0].abs()
            rows = torch.where(honest, 1.0, -1.0)[:, None] * torch.ones(workers, D)
            task.append(
                (
                    example_of_round(
                        rows, honest, Judged(said, torch.ones(workers, dtype=torch.bool), torch.ones(workers))
                    ),
                )
            )
        found.append(stacked(task)[0])
    return tuple(found)


def test_the_judge_learns_to_tell_them_apart():
    torch.manual_seed(0)
    judges, training = JudgePanel(1), TrustTraining(steps=60)
    training.begin(6, 4, 1)
    training.keep(windows(16), torch.zeros(16, 6, UNITS), [0] * 16)
    optimizer = torch.optim.Adam(judges.parameters(), lr=0.02)
    first, last = (float(training.train_judges(judges, optimizer, (0, window))) for window in (0, 1))
    assert last < first
    other = windows(8, seed=1)
    with torch.no_grad():
        logits = judges[0].window(
            torch.stack([w.evidence for w in other]), torch.zeros(8, 6, UNITS), torch.ones(8, 4, 6).bool()
        )
    honest = torch.stack([w.honest for w in other])
    assert ((logits > 0) == honest).float().mean() > 0.95


def test_judges_are_trained_beside_each_other():
    """Each on windows of its own draw, and as if it were alone: the first one of three is what one becomes, and one that has no gradient stops no other."""

    def trained(count, broken=None):
        judges, training = random_judges(count), TrustTraining(steps=3, batch_size=2)
        if broken is not None:
            judges[broken].out.bias.data.fill_(torch.nan)
        training.begin(6, 4, count)
        training.keep(windows(8), torch.zeros(8, 6, count * UNITS), [0] * 8)
        training.train_judges(judges, torch.optim.Adam(judges.parameters(), lr=0.02), (0, 0))
        return [judge.state_dict() for judge in judges]

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    (alone,), three = trained(1), trained(3)
    assert same(alone, three[0])
    for found, k in zip(trained(3, broken=1), range(3), strict=True):
        assert same(found, three[k]) == (k != 1)
    twins, training = random_judges(2), TrustTraining(steps=1, batch_size=2)
    twins[1].load_state_dict(twins[0].state_dict())
    training.begin(6, 4, 2)
    training.keep(windows(8), torch.zeros(8, 6, 2 * UNITS), [0] * 8)
    training.train_judges(twins, torch.optim.SGD(twins.parameters(), lr=0.1), (0, 0))
    assert not same(twins[0].state_dict(), twins[1].state_dict())


def test_the_oldest_windows_are_forgotten():
    training = TrustTraining(capacity=3)
    training.begin(6, 4, 1)
    seen = windows(5)
    training.keep(seen[:2], torch.zeros(2, 6, UNITS), [0] * 2)
    training.keep(seen[2:], torch.ones(3, 6, UNITS), [0] * 3)
    for place, index in enumerate((3, 4, 2)):
        assert torch.equal(training.products[place], seen[index].products)
        assert torch.allclose(training.evidence[place].float(), seen[index].evidence, atol=2e-3)
    assert training.memory.all()
    assert int(training.count) == 5


def test_absent_workers_teach_nothing():
    (window,) = windows(1)
    absent = torch.tensor([False, False, False, False, True, True])
    here = ~absent.expand_as(window.counts)
    inner = here[..., None] & here[..., None, :]
    gone = TrustExample(window.evidence, here, window.honest & here, window.products * inner)
    noise = torch.where(here[..., None], gone.evidence, 100.0)
    losses = []
    for said in (gone.evidence, noise):
        judges, training = random_judges(), TrustTraining(steps=1)
        training.begin(6, 4, 1)
        training.keep((gone._replace(evidence=said),), torch.zeros(1, 6, UNITS), [0] * 1)
        losses.append(training.train_judges(judges, torch.optim.SGD(judges.parameters(), lr=0.0), (0, 0)))
    assert losses[0] == losses[1]


def test_merged_copies_teach_what_one_of_them_would():
    (window,) = windows(1, workers=4)
    of = [0, 1, 2, 3, 3, 3]
    shares = torch.tensor([1.0, 1.0, 1.0, *[1 / 3] * 3]).expand(4, 6)
    copied = TrustExample(
        window.evidence[:, of], shares, window.honest[:, of], window.products[:, of][:, :, of]
    )
    losses = []
    for example, honest in ((window, window.honest), (copied, copied.honest)):
        judges, training = random_judges(), TrustTraining(steps=1)
        training.begin(len(honest[0]), 4, 1)
        training.keep((example,), torch.zeros(1, len(honest[0]), UNITS), [0])
        optimizer = torch.optim.SGD(judges.parameters(), lr=0.0)
        losses.append(float(training.train_judges(judges, optimizer, (0, 0))))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # a third is kept in half precision


def test_early_rounds_count_more():
    """Round t of an episode 1 / sqrt(t): one of four rounds goes wrong, at the beginning or at the end."""
    (window,) = windows(1)
    judges = JudgePanel(1)
    for p in judges.parameters():
        torch.nn.init.zeros_(p)
    (judge,) = judges
    judge.enc.weight.data[0, 0] = 100.0  # sees who is honest
    judge.out.weight.data[0, UNITS] = 20.0

    def loss(wrong, first):
        said = window.evidence.clone()
        said[wrong, :, 0] *= -1
        training = TrustTraining(steps=1, cross_entropy=0.0)
        training.begin(6, 4, 1)
        training.keep((window._replace(evidence=said),), torch.zeros(1, 6, UNITS), [first])
        optimizer = torch.optim.SGD(judges.parameters(), lr=0.0)
        return float(training.train_judges(judges, optimizer, (0, 0)))

    right = math.log(0.05)
    for first in (0, 20):
        weights = [(first + t) ** -0.5 for t in (1, 2, 3, 4)]
        early, late = (loss(wrong, first) - right for wrong in (0, 3))
        assert early / late == pytest.approx(weights[0] / weights[3], rel=1e-3)
        assert early > late > 0.1


def test_a_judge_is_trained_where_there_is_one():
    with pytest.raises(
        SettingError,
        match=r"trust_training must be null unless model.aggregator.trust is learned, got TrustTraining",
    ):
        MetaLearner(Recurrent(), trust_training=TrustTraining())
    assert MetaLearner(Recurrent()).trust_training is None
    assert MetaLearner(Recurrent(**LEARNED)).trust_training.steps == 20
    for name, value in (
        ("steps", 0),
        ("batch_size", 0),
        ("capacity", 0),
        ("cross_entropy", -1.0),
        ("clip_norm", 0.0),
    ):
        with pytest.raises(SettingError, match=f"model.trust_training.{name}"):
            TrustTraining(**{name: value})
