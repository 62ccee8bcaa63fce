"""The learned aggregator's inputs, network and files."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_agg.aggregators import Context, PreAggregated, Recurrent, line_search
from lightning_agg.aggregators.recurrent_network import RecurrentNetwork
from lightning_agg.aggregators.worker_features import WorkerFeatures, overlap
from lightning_agg.errors import SettingError
from lightning_agg.preaggregators import Bucketing, NearestNeighborMixing

PAPER = {
    "slots": 3, "loss_information": False, "worker_order": "given", "scale": "l2", "running_scale": 0.0, "adaptivity": 0.0, "normalization": 0.0, "batch_scaling": 0.0, "batch_decay": 0.0,
    "clamp": "signed", "clamp_exponent": 10.0, "num_samples": 4, "trial_step": 1.0,
    "gate": False, "trust": "losses", "length_limit": 5.0, "trust_horizon": 0, "trust_floor": -3.0, "merge_copies": False, "early_samples": 0, "trust_decay": 0.0, "trust_margin": 0.0, "direction_decay": 0.0, "direction_margin": 0.0,
    "distrust_copies": False, "momenta": [], "line_search": False,
}  # fmt: skip


def features(gradients, context=None, seen=None, step=0, **settings):
    settings = {**PAPER, "slots": len(gradients), **settings}
    rows = torch.tensor(gradients)
    preparation = WorkerFeatures(**settings)
    return preparation(rows, context or Context(), seen or preparation.unseen(len(rows), rows), step)


def descending(descents):
    """A server whose trial loss along row m, all of whose entries are m, falls by descents[m]."""

    def losses(vectors, num_samples):
        return torch.tensor([10.0 - ([0.0, *descents][int(-v[0].round())]) for v in vectors])

    return Context(parameters=lambda: torch.zeros(2), public_losses=losses)


def descending_rows(descents):
    """A server whose trial losses fall by ``descents``, in the order in which the rows come."""
    return Context(
        parameters=lambda: torch.zeros(2),
        public_losses=lambda vectors, num_samples: torch.tensor([10.0, *(10 - d for d in descents)]),
    )


def test_the_papers_preprocessing():
    found = features([[3.0, 0.0, 1.0], [4.0, 0.0, -1.0], [0.0, 0.0, 1e-7]], clamp_exponent=3.0)
    least = torch.tensor(-3.0).exp()
    assert torch.allclose(found.scale, torch.tensor([5.0, 0.0, 2**0.5]))
    root = 0.5**0.5
    assert torch.allclose(
        found.inputs, torch.tensor([[0.6, 0, root], [0.8, 0, -root], [0, 0, least]]), atol=1e-6
    )


@pytest.mark.parametrize(("clamp", "small"), [("signed", -1), ("literal", 1), ("drop", 0)])
def test_what_becomes_of_small_inputs(clamp, small):
    found = features([[1.0], [-1e-6]], clamp=clamp, clamp_exponent=2.0)
    assert found.inputs[1, 0].item() == pytest.approx(small * torch.tensor(-2.0).exp().item())


def test_other_scales_are_not_the_attackers_to_set():
    rows = [[1.0, -2.0], [1.0, -2.0], [2.0, 4.0], [1e9, 1e9]]
    assert features(rows, scale="median").scale.tolist() == [1.0, 2.0]
    assert features(rows, scale="lead").scale.tolist() == [1.0, 2.0]
    assert features(rows, scale="lead").inputs.abs().max() == 3


def test_sorted_inputs_are_order_statistics():
    found = features([[3.0, -1.0], [1.0, 0.0], [2.0, 5.0]], worker_order="sorted", scale="median")
    assert torch.allclose(found.inputs, torch.tensor([[0.5, -1.0], [1.0, 0.0], [1.5, 3.0]]), atol=1e-4)


def test_trust_puts_the_best_descent_first():
    context = descending([-1.0, 2.0, 0.5])
    found = features(
        [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]],
        context,
        worker_order="trust",
        scale="lead",
        loss_information=True,
    )
    scale = ((4 + 9) / 2) ** 0.5
    assert torch.allclose(found.inputs[:3, 0], torch.tensor([2.0, 3.0, 1.0]) / scale)
    # A round adds at most 1 nat to the trust in a worker.
    assert torch.allclose(found.inputs[3:, 0], torch.tensor([1.0, 0.5, -1.0]))


def test_the_gate_silences_who_is_not_trusted():
    context = descending([-0.5, 0.8, 0.3])
    rows = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    found = features(rows, context, worker_order="trust", scale="trusted", gate=True)
    weights = [1.0, 2 * 0.3 / 0.8, 0.0]
    scale = ((weights[0] * 4 + weights[1] * 9) / sum(weights)) ** 0.5
    mean = (weights[0] * 2 + weights[1] * 3) / sum(weights)
    assert torch.allclose(found.inputs[:, 0], torch.tensor([2.0, weights[1] * 3, 0, mean]) / scale, atol=1e-5)
    assert torch.allclose(found.scale, torch.full((2,), scale), atol=1e-5)


def test_peers_trust_who_agrees_with_most():
    settings = {"scale": "trusted", "gate": True, "trust": "peers", "trust_decay": 1.0, "trust_margin": 0.25}
    found = features([[1.0, 0.0], [1.0, 0.2], [1.0, -0.2], [1.0, 0.0], [-9.0, 0.0], [-9.0, 0.0]], **settings)
    near, far = 1.04**-0.5, 0.96 / 1.04
    expected = torch.tensor([near, far, far, near, -near, -near])
    assert torch.allclose(found.seen.trust, expected, atol=1e-6)
    assert found.inputs[4:6].abs().max() == 0
    # Now the liars are the majority of the rows, but not of those trusted so far.
    seen = found.seen._replace(trust=torch.tensor([1.0] * 3 + [-1.0] * 4))
    later = features([[1.0, 0.0]] * 3 + [[-1.0, 0.0]] * 4, seen=seen, step=1, **settings)
    assert torch.allclose(later.seen.trust, torch.tensor([2.0] * 3 + [-2.0] * 4))


def pointing(gradient, descents):
    """A server with this public gradient, whose trial losses fall by ``descents``, in the order in which the rows come."""
    return replace(
        descending_rows(descents),
        parameters=lambda: torch.zeros(len(gradient)),
        public_gradient=lambda num_samples: torch.tensor(gradient),
    )


def test_trust_needs_both_a_descent_and_the_direction_of_the_training():
    settings = {
        "scale": "trusted", "gate": True, "trust_decay": 0.5, "trust_margin": 0.25,
        "direction_decay": 0.8, "direction_margin": 0.5,
    }  # fmt: skip
    rows = [[4.0, 3.0], [4.0, -3.0], [0.0, 2.0], [-5.0, 0.0]]
    first = features(rows, pointing([0.0, 7.0], [0.4, 0.4, 0.4, 0.4]), **settings)
    assert first.seen.direction.tolist() == [0.0, 1.0]
    assert first.seen.agreement.tolist() == pytest.approx([0.6, -0.6, 1.0, 0.0])
    # 0.6 and 1 beyond the margin of a half, over the best of them; who is not beyond it is silent.
    weights = [2 * 0.1 / 0.5, 1.0]
    center = (weights[0] * 4 * torch.tensor([1.0, 0.75]) + torch.tensor([0.0, 2.0])) / sum(weights)
    assert torch.allclose(first.inputs[4] * first.scale, center, atol=1e-4)
    second = features(rows, pointing([3.0, 0.0], [0.4, 0.4, -0.8, 0.4]), seen=first.seen, step=1, **settings)
    assert second.seen.direction.tolist() == pytest.approx([1.0, 0.8])
    length = 1.64**0.5
    cosines = [(0.8 + 0.48) / length, (0.8 - 0.48) / length, 0.8 / length, -1 / length]
    expected = [0.5 * a + b for a, b in zip([0.6, -0.6, 1.0, 0.0], cosines, strict=True)]
    assert second.seen.agreement.tolist() == pytest.approx(expected)
    # The third agrees, too, but its descents do not: 0.5 * 0.4 - 0.8 of at most 0.6.
    assert second.inputs[:4].abs().amax(dim=1).tolist() == pytest.approx(
        [(4 / second.scale[0]).item(), 0, 0, 0]
    )


def test_an_attack_that_hides_in_the_oscillation_of_the_training():
    """All rows share a component that changes its sign every round; liars lack the small one that does not."""
    generator, seen = torch.Generator().manual_seed(0), None
    for step in range(60):
        swing, drift = (-1.0) ** step * torch.eye(50)[0], 0.2 * torch.eye(50)[1]
        noise = 0.2 * torch.randn(10, 50, generator=generator)
        rows = noise + (1 + noise[:, :1]) * swing
        rows[:3] += drift
        gradient = swing + drift
        found = features(
            rows.tolist(),
            pointing(gradient.tolist(), (0.3 * rows @ gradient).tolist()),
            seen=seen,
            step=step,
            gate=True,
            trust_decay=1.0,
            direction_decay=0.9,
        )
        seen = found.seen
    assert seen.trust[:3].min() < seen.trust[3:].max()
    assert seen.agreement[:3].min() > 1.3 * seen.agreement[3:].max()


def test_the_direction_stands_a_public_gradient_that_is_not_finite():
    settings = {"scale": "trusted", "gate": True, "direction_decay": 0.9}
    found = features([[1.0, 2.0], [2.0, 1.0]], pointing([math.nan, math.inf], [0.4, 0.4]), **settings)
    assert found.seen.direction.tolist() == [0.0, 0.0]
    assert found.inputs.isfinite().all()
    assert found.scale.isfinite().all()


def test_the_direction_asks_for_public_data():
    assert Recurrent(trust="peers", gate=True, scale="trusted", direction_decay=0.9).public_samples == 32
    assert Recurrent(trust="peers", gate=True, scale="trusted").public_samples == 0
    with pytest.raises(SettingError, match="public_size"):
        Recurrent(trust="peers", gate=True, scale="trusted", direction_decay=0.9, slots=3)(torch.ones(3, 2))


def test_copies_together_count_for_less_than_one():
    settings = {"scale": "trusted", "gate": True, "worker_order": "trust", "distrust_copies": True}
    settings["loss_information"] = True
    rows = [[5.0, 1.0], [5.01, 1.0], [2.0, 3.0], [4.99, 1.0], [4.4, 1.0], [3.0, -9.0]]
    found = features(rows, descending_rows([0.9, 0.9, 1.0, 0.9, 0.6, -0.5]), **settings)
    slots, trust = found.inputs[:6, 0] * found.scale[0], found.inputs[7:13, 0]
    # Two are nearly the first; the fifth is an eighth away from each, the last trusted by nobody.
    assert slots.tolist() == pytest.approx([2.0, 4.4, 5.0 / 9, 5.01 / 9, 4.99 / 9, 0.0], rel=1e-4)
    assert trust.tolist() == pytest.approx([1.0, 0.6, 0.1, 0.1, 0.1, -0.5], abs=1e-4)
    center = (2.0 + 4.4 + 15 / 9) / (2 + 3 / 9)
    assert (found.inputs[6, 0] * found.scale[0]).item() == pytest.approx(center, rel=1e-4)


def test_where_all_are_nearly_the_same_nobody_is_a_copy():
    settings = {"scale": "trusted", "gate": True, "distrust_copies": True, "batch_scaling": 0.5}
    found = features([[5.0, 1.0], [5.01, 1.0], [4.99, 1.0]], descending_rows([0.9, 0.9, 0.9]), **settings)
    scale = ((5.0**2 + 5.01**2 + 4.99**2) / 3) ** 0.5
    assert found.inputs[:3, 0].tolist() == pytest.approx([5.0 / scale, 5.01 / scale, 4.99 / scale])
    assert found.scale.tolist() == pytest.approx([scale, 1.0])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_step_follows_the_number_of_trusted_workers(exponent):
    settings = {"scale": "trusted", "gate": True, "slots": 8, "batch_scaling": exponent}
    rows = [[3.0], [-3.0], [3.0], [-3.0]]
    two = features(rows, descending_rows([0.9, 0.9, -0.1, -0.1]), **settings)
    assert two.scale.item() == pytest.approx(3 * (2 / 8) ** exponent)
    # Weights of 1 and a half are worth 1.5² / 1.25 workers.
    half = features(rows, descending_rows([0.8, 0.2, -0.1, -0.1]), **settings)
    assert half.scale.item() == pytest.approx(3 * (1.8 / 8) ** exponent, rel=1e-5)
    nobody = features(rows, descending_rows([-0.1] * 4), **settings)
    assert nobody.scale.item() == 0
    many = features([[3.0], [-3.0]] * 10, descending_rows([0.9] * 20), **settings)
    assert many.scale.item() == pytest.approx(3)


def test_the_step_follows_a_running_mean_of_the_number_of_trusted_workers():
    settings = {"scale": "trusted", "gate": True, "slots": 8, "batch_scaling": 1.0, "batch_decay": 0.75}
    rows, two = [[3.0], [-3.0], [3.0], [-3.0]], descending_rows([0.9, 0.9, -0.1, -0.1])
    first = features(rows, two, **settings)
    assert first.seen.number.tolist() == [0.75 * 4 + 0.25 * 2]
    assert first.scale.item() == pytest.approx(3 * 3.5 / 8)
    three = descending_rows([0.9, 0.9, 0.9, -0.1])
    second = features(rows, three, seen=first.seen, step=1, **settings)
    assert second.seen.number.tolist() == [0.75 * 3.5 + 0.25 * 3]
    assert second.scale.item() == pytest.approx(3 * 3.375 / 8)
    third = features(rows, descending_rows([-0.1] * 4), seen=second.seen, step=2, **settings)
    assert third.scale.item() == 0  # nobody is trusted


def test_copies_are_one_trusted_worker():
    settings = {"scale": "trusted", "gate": True, "slots": 4, "batch_scaling": 1.0, "distrust_copies": True}
    found = features([[3.0], [-3.0], [-3.0], [9.0]], descending_rows([0.9, 0.9, 0.9, -0.9]), **settings)
    # One of weight 1, and two of a quarter each that are the same: 1.5² / (1 + 0.5²).
    assert found.scale.item() == pytest.approx(3 * 1.8 / 4)
    only = features([[3.0], [3.0], [9.0]], descending_rows([0.9, 0.9, -0.9]), **settings)
    assert only.scale.item() == pytest.approx(3 * 1 / 4)
    assert only.inputs[:2, 0].tolist() == pytest.approx([1.0, 1.0])


def test_equal_rows_are_one_worker_to_the_step_even_where_there_are_no_others():
    settings = {"scale": "trusted", "gate": True, "slots": 4, "batch_scaling": 1.0, "distrust_copies": True}
    found = features([[3.0, 1.0]] * 4, descending_rows([0.9] * 4), **settings)
    assert found.inputs[:4, 0].tolist() == pytest.approx([1.0] * 4)
    assert found.scale.tolist() == pytest.approx([3 / 4, 1 / 4])
    # Three that are equal and one that is nearly: 4² / (3 * 3 + 1).
    nearly = features([[3.0, 1.0]] * 3 + [[3.001, 1.0]], descending_rows([0.9] * 4), **settings)
    assert nearly.scale[1].item() == pytest.approx(1.6 / 4)


def test_missing_workers_are_as_if_not_trusted():
    rows, settings = [[1.0], [2.0]], {"scale": "trusted", "gate": True, "slots": 4, "loss_information": True}
    for order in ("trust", "given"):
        few = features(rows, descending([0.9, 0.8]), worker_order=order, **settings)
        more = features(
            [*rows, [5.0], [6.0]], descending_rows([0.9, 0.8, -0.1, -0.1]), worker_order=order, **settings
        )
        assert torch.allclose(few.inputs[:5], more.inputs[:5])
        assert few.inputs[5:9, 0].tolist() == pytest.approx([1.0, 0.8 / 0.9, 0.0, 0.0], abs=1e-5)
        assert few.scale.item() == pytest.approx(more.scale.item())


@pytest.mark.parametrize("weights", ["mnist_rnn_lstm", "mnist_arnn_gru", "cifar10_rnn_lstm"])
@pytest.mark.parametrize("size", [1e20, 1e30])
def test_a_distrusted_row_of_any_length_does_nothing(weights, size):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 40, generator=generator) + 1
    small, large = rows.clone(), rows.clone()
    small[3], large[3] = -1e6, -size
    context = pointing([1.0] * 40, [0.5] * 3 + [-1.0] + [0.5] * 6)
    given, huge = Recurrent(weights=weights, line_search=False), Recurrent(weights=weights, line_search=False)
    for _ in range(3):
        expected, found = given(small, context), huge(large, context)
        assert expected.abs().min() > 0
        assert torch.allclose(found, expected, rtol=1e-4)


def test_a_round_that_overflows_did_not_happen():
    torch.manual_seed(0)
    rule, rows = Recurrent(slots=3), torch.randn(3, 5)
    first, bias = rule(rows), rule.network.output_bias.data.clone()
    rule.reset()
    rule.network.output_bias.data.fill_(3e38)
    assert rule(1e3 * rows).tolist() == [0.0] * 5
    assert int(rule.step) == 0
    rule.network.output_bias.data.copy_(bias)
    assert torch.equal(rule(rows), first)


@pytest.mark.parametrize("trust", ["losses", "peers"])
def test_trust_is_in_workers_not_in_rows(trust):
    """Of five workers those numbered 4, 0, 2 take part, then 1 and 4."""
    settings = {"scale": "trusted", "gate": True, "trust": trust, "trust_decay": 0.5, "slots": 5}
    preparation = WorkerFeatures(**{**PAPER, **settings})
    everybody, rows = torch.zeros(5, 2), torch.tensor([[1.0, 1.0], [1.0, 0.5], [-1.0, 2.0]])

    def after(rows, workers, seen, descents):
        known = {"workers": torch.tensor(workers), "pool_size": 5}
        return preparation(rows, replace(descending_rows(descents), **known), seen, 0).seen

    def alone(rows, seen, descents):
        return preparation(rows, descending_rows(descents), seen, 0).seen.trust

    begin = preparation.unseen(5, everybody)
    first = after(rows, [4, 0, 2], begin, [0.3, 0.2, -0.1])
    expected = alone(rows, preparation.unseen(3, rows), [0.3, 0.2, -0.1])
    assert torch.equal(first.trust[[4, 0, 2]], expected)
    assert first.trust[[1, 3]].tolist() == [0.0, 0.0]
    second = after(rows[:2], [1, 4], first, [0.4, 0.1])
    expected = alone(rows[:2], first._replace(trust=first.trust[[1, 4]]), [0.4, 0.1])
    assert torch.equal(second.trust[[1, 4]], expected)
    assert torch.equal(second.trust[[0, 2, 3]], first.trust[[0, 2, 3]])


def test_another_pool_is_told():
    rule = Recurrent(gate=True, worker_order="trust", trust_decay=0.9, trust="peers")
    rule(torch.ones(10, 3))
    with pytest.raises(SettingError, match="remembers M = 10 workers, got M = 12"):
        rule(torch.ones(12, 3))
    rule.reset()
    rule(torch.ones(12, 3))


def test_trust_needs_the_workers_own_rows():
    trusting = Recurrent(gate=True, worker_order="trust", trust_decay=0.9)
    PreAggregated([NearestNeighborMixing(2)], trusting).check(10)
    PreAggregated([Bucketing(2)], Recurrent(gate=True, worker_order="trust")).check(10)
    with pytest.raises(
        SettingError, match="remembers workers and needs a row of each, but the steps leave 5 rows"
    ):
        PreAggregated([Bucketing(2)], trusting).check(10)
    with pytest.raises(SettingError, match="remembers workers"):
        PreAggregated([Bucketing(2)], PreAggregated([NearestNeighborMixing(1)], trusting)).check(10)


def quadratic(start):
    """A server at ``start`` whose public loss is the square of the parameter."""
    return Context(
        parameters=lambda: torch.tensor([start]), public_losses=lambda vectors, n: vectors.square().sum(1)
    )


def test_the_line_search_halves_a_step_that_raises_the_loss_by_a_quarter_and_those_after_it():
    carried = line_search.begin(torch.zeros(1))
    # From 1 to -1.1 the loss rises by 0.21: not much enough.
    factor, carried = line_search.search(quadratic(1.0), torch.tensor([-2.1]), carried, 0, 4)
    assert factor == 1
    # From 0.8 to 2.8, 1.8 and 1.3 it rises above 1.25, a quarter more than that of the round before; to 1.05 no longer.
    factor, carried = line_search.search(quadratic(0.8), torch.tensor([2.0]), carried, 1, 4)
    assert factor == 1 / 8
    # What fits at once stays short.
    factor, carried = line_search.search(quadratic(0.8), torch.tensor([0.0]), carried, 2, 4)
    assert factor == 1 / 8
    # Ten rounds after it the loss of 1 has been forgotten, and 0.64 is the largest.
    for index in range(3, 11):
        _, carried = line_search.search(quadratic(0.1), torch.tensor([0.0]), carried, index, 4)
    assert line_search.search(quadratic(0.1), torch.tensor([6.0]), carried, 10, 4)[0] == 1 / 8
    assert line_search.search(quadratic(0.1), torch.tensor([7.0]), carried, 10, 4)[0] == 1 / 16


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_the_line_search_ends(bad):
    factor, carried = line_search.search(
        quadratic(1.0), torch.tensor([bad]), line_search.begin(torch.zeros(1)), 0, 4
    )
    assert factor == 0.5**line_search.MOST
    assert carried.tolist() == [line_search.MOST, 1.0] + [0.0] * (line_search.RECENT - 1)


def test_a_searching_rule_takes_shorter_steps_and_says_what_it_needs():
    settings = {"worker_order": "sorted", "scale": "median", "momenta": [0.0], "output_scale": 3.0}
    plain, searching = Recurrent(**settings), Recurrent(**settings, line_search=True, num_samples=7)
    searching.network.load_state_dict(plain.network.state_dict())
    nn.init.zeros_(searching.network.output)
    nn.init.zeros_(plain.network.output)
    # The gradient of the square at 1: the step leads to -5, -2, -0.5.
    rows = torch.tensor([[2.0]]).expand(5, 1)
    assert plain(rows, quadratic(1.0)).item() == pytest.approx(6.0)
    assert searching(rows, quadratic(1.0)).item() == pytest.approx(1.5)
    assert searching(rows / 10, quadratic(1.0)).item() == pytest.approx(0.15)
    searching.reset()
    assert searching(rows / 10, quadratic(1.0)).item() == pytest.approx(0.6)
    # What is tried is the step that the server's optimizer makes of it.
    for lr, expected in [(0.25, 6.0), (0.5, 3.0)]:
        searching.reset()
        assert searching(rows, replace(quadratic(1.0), lr=lr)).item() == pytest.approx(expected)
    assert (plain.public_samples, searching.public_samples) == (0, 7)
    with pytest.raises(SettingError, match="public_size must be at least"):
        Recurrent(**settings, line_search=True)(rows)


def test_the_margin_is_taken_off_everyones_trust():
    rows, context = [[1.0], [2.0], [3.0]], descending([0.8, 0.5, 0.2])
    settings = {"scale": "trusted", "gate": True, "loss_information": True, "trust_decay": 1.0}
    found = features(rows, context, trust_margin=0.25, **settings)
    # 0.6, 0.3 and 0 are left, relative to the best; half of it is full weight, and the sum stays as it is.
    assert found.inputs[4:7, 0].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-4)
    assert (found.inputs[3] * found.scale).item() == pytest.approx(1.5, abs=1e-4)
    assert found.seen.trust.tolist() == pytest.approx([0.8, 0.5, 0.2])
    # With nobody above 0 there is nothing to take off.
    distrusted = features(rows, descending([-0.1, -0.2, -0.4]), trust_margin=0.25, **settings)
    assert distrusted.inputs[4, 0] == pytest.approx(-1.0, abs=1e-4)


def test_nobody_trusted_is_no_step():
    found = features([[1.0], [2.0]], descending([-0.5, -0.1]), scale="trusted", gate=True)
    assert not found.scale.any()
    assert not found.inputs.any()


def test_trust_adds_up_over_rounds_and_a_dropped_worker_loses_it():
    settings = {"worker_order": "trust", "loss_information": True, "trust_decay": 0.5, "scale": "lead"}
    rows = [[1.0], [2.0], [3.0]]
    first = features(rows, descending([0.4, 0.8, -0.2]), **settings)
    assert first.seen.trust.tolist() == pytest.approx([0.4, 0.8, -0.2])
    context = replace(descending([0.0, 0.0, 0.6]), finite=torch.tensor([True, False, True]))
    second = features([rows[0], rows[2]], context, seen=first.seen, step=1, **settings)
    assert second.seen.trust.tolist() == pytest.approx([0.2, -0.6, 0.5])
    assert second.inputs[2:, 0].tolist() == pytest.approx([1.0, 0.4], abs=1e-4)


def test_the_running_scale():
    first = features([[3.0], [4.0]], running_scale=0.9)
    assert first.scale.item() == pytest.approx(5)
    assert first.inputs[-1].item() == pytest.approx(0, abs=1e-6)
    second = features([[30.0], [40.0]], seen=first.seen, step=1, running_scale=0.9)
    usual = ((0.9 * 25 * 0.1 + 0.1 * 2500) / (1 - 0.81)) ** 0.5
    assert second.scale.item() == pytest.approx(usual)
    assert second.inputs[-1].item() == pytest.approx(torch.tensor(50 / usual).log().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("adaptivity", "scale"), [(0.0, [3.0, 4.0, 0.0]), (1.0, [5 / 3**0.5, 5 / 3**0.5, 0.0])]
)
def test_adaptivity_evens_what_the_output_is_multiplied_by(adaptivity, scale):
    plain = features([[3.0, 4.0, 0.0]])
    found = features([[3.0, 4.0, 0.0]], adaptivity=adaptivity)
    assert found.scale.tolist() == pytest.approx(scale)
    assert torch.equal(found.inputs, plain.inputs)
    half = features([[3.0, 4.0, 0.0]], adaptivity=0.5)
    assert half.scale[:2].tolist() == pytest.approx([(3 * 5 / 3**0.5) ** 0.5, (4 * 5 / 3**0.5) ** 0.5])


@pytest.mark.parametrize("adaptivity", [0.0, 1.0])
def test_normalization_lessens_by_what_the_step_grows_with_the_gradients(adaptivity):
    rows = [[3.0, 4.0, 0.0], [0.3, 0.4, 0.0]]
    for normalization, lengths in ((0.0, [5.0, 0.5]), (0.5, [5**0.5, 0.5**0.5]), (1.0, [1.0, 1.0])):
        found = [features([row], adaptivity=adaptivity, normalization=normalization) for row in rows]
        plain = [features([row], adaptivity=adaptivity) for row in rows]
        for usual, item, length, plain_length in zip(plain, found, lengths, (5, 0.5), strict=True):
            assert torch.equal(item.inputs, usual.inputs)
            assert torch.allclose(item.scale / length, usual.scale / plain_length)
    assert not features([[0.0, 0.0]], normalization=1.0).scale.any()


def test_momenta_are_running_means_of_the_center():
    settings = {"momenta": [0.0, 0.5], "scale": "median", "slots": 3}
    first = features([[3.0], [4.0], [8.0]], **settings)
    assert first.inputs[-2:, 0].tolist() == pytest.approx([5 / 4, 2.5 / 4])
    second = features([[-1.0], [1.0], [3.0]], seen=first.seen, step=1, **settings)
    assert second.inputs[-2:, 0].tolist() == pytest.approx([1.0, 0.5 * 2.5 + 0.5 * 1])
    ordered = features([[3.0], [4.0], [8.0]], worker_order="sorted", **settings)
    assert ordered.inputs[-2].item() == pytest.approx(1.0)
    trusted = {"worker_order": "trust", "scale": "trusted", "gate": True, "momenta": [0.0]}
    gated = features([[1.0], [2.0], [3.0]], descending([1.0, -1.0, 0.5]), **trusted)
    assert gated.inputs[-1].item() * gated.scale.item() == pytest.approx(2.0)


def test_untrained_momenta_are_sgd_with_momentum():
    rule = Recurrent(
        worker_order="sorted", scale="median", running_scale=0.9, momenta=[0.5], output_scale=2.0
    )
    nn.init.zeros_(rule.network.output)
    total = torch.zeros(6)
    for _ in range(30):
        gradients = torch.randn(1, 6).expand(10, 6)
        total = 0.5 * total + 0.5 * gradients[0]
        assert torch.allclose(rule(gradients), 2.0 * total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalization", [0.0, 1.0])
def test_untrained_with_adaptivity_is_adam_whose_step_follows_the_gradients_size(normalization):
    rule = Recurrent(
        worker_order="sorted",
        scale="median",
        running_scale=0.99,
        adaptivity=1.0,
        normalization=normalization,
        momenta=[0.9],
        output_scale=2.0,
    )
    nn.init.zeros_(rule.network.output)
    first, second = torch.zeros(6), torch.zeros(6)
    for t in range(1, 31):
        gradient = torch.randn(6) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0, 1.0])
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient.square()
        # Kingma and Ba, ICLR 2015, without the first moment's correction.
        root = (second / (1 - 0.99**t)).sqrt()
        expected = 2.0 * root.square().mean().sqrt() * first / root / root.norm() ** normalization
        assert torch.allclose(rule(gradient.expand(10, 6)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("rows", "slots"), [(10, 10), (20, 10), (5, 10), (7, 3), (3, 7), (1, 4)])
def test_slots_share_the_rows_evenly(rows, slots):
    weights = overlap(rows, slots)
    assert torch.allclose(weights.sum(1), torch.ones(slots), atol=1e-6)
    assert torch.allclose(weights.sum(0), torch.full((rows,), slots / rows), atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("direct", [0, 3])
def test_the_network_is_the_same_without_a_graph(cell, direct):
    network = RecurrentNetwork(5, cell, direct=direct).double()
    inputs, state = torch.randn(5, 2345).double(), torch.randn(network.state_size, 2345).double()
    expected = network(inputs, state)
    with torch.no_grad():
        found = network(inputs, state)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_network_is_that_of_torch(cell):
    network = RecurrentNetwork(5, cell, hidden_size=4, num_layers=2)
    reference = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](5, 4, num_layers=2).double()
    network = network.double()
    # Our LSTM's gates stand as input, forget, output, cell; torch's as input, forget, cell, output.
    order = [0, 1, 3, 2] if cell == "lstm" else [0, 1, 2]
    with torch.no_grad():
        for layer in range(2):
            for ours, theirs in (
                ("from_input", "weight_ih"),
                ("from_hidden", "weight_hh"),
                ("bias", "bias_ih"),
            ):
                value = getattr(network, ours)[layer]
                value.uniform_(-1, 1)
                blocks = [value.chunk(len(order))[i] for i in order]
                getattr(reference, f"{theirs}_l{layer}").copy_(
                    torch.cat(blocks).view_as(getattr(reference, f"{theirs}_l{layer}"))
                )
            getattr(reference, f"bias_hh_l{layer}").zero_()
        inputs = torch.randn(6, 5, 3, dtype=torch.float64)
        state, outputs = torch.zeros(network.state_size, 3, dtype=torch.float64), []
        for x in inputs:
            out, state = network(x, state)
            outputs.append(out)
        expected, _ = reference(inputs.transpose(1, 2))
        expected = (network.output @ expected.transpose(1, 2))[:, 0] + network.output_bias[0]
    assert torch.allclose(torch.stack(outputs), expected, rtol=1e-12)


def test_sizes_of_the_papers_networks():
    assert sum(p.numel() for p in Recurrent().network.parameters()) == 2480 + 3280 + 21
    assert sum(p.numel() for p in Recurrent(loss_information=True).network.parameters()) == 3280 + 3280 + 21


def test_a_zero_last_layer_does_not_move():
    rule = Recurrent(slots=4)
    nn.init.zeros_(rule.network.output)
    for _ in range(3):
        assert not rule(torch.randn(4, 7)).any()


def test_the_aggregate_is_positively_homogeneous_in_a_first_round():
    torch.manual_seed(0)
    gradients = torch.randn(4, 7)
    rule = Recurrent(slots=4)
    once = rule(gradients)
    rule.reset()
    assert torch.allclose(rule(1000 * gradients), 1000 * once, rtol=1e-4)


def test_untrained_weights_are_of_the_seed_alone():
    state = torch.get_rng_state()
    first = Recurrent(slots=4, seed=1).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    same, other = (Recurrent(slots=4, seed=seed).network.state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(
        torch.equal(first[name], other[name]) for name in first if "weight" in name or "from" in name
    )


def test_it_remembers_forgets_and_is_restored():
    settings = {
        "slots": 4, "running_scale": 0.9, "momenta": [0.0, 0.9], "trust_decay": 0.9, "loss_information": True,
        "direction_decay": 0.8, "gate": True, "batch_scaling": 0.5, "batch_decay": 0.9, "line_search": True, "output_scale": 300.0,
    }  # fmt: skip
    server = Context(
        parameters=lambda: torch.ones(7),
        public_losses=lambda v, n: v.square().sum(1),
        public_gradient=lambda n: torch.full((7,), 2.0),
    )
    rule, rounds = Recurrent(**settings), torch.randn(4, 4, 7, generator=torch.Generator().manual_seed(0))
    first = [rule(g, server) for g in rounds]
    assert rule.search[0] > 0
    rule.reset()
    assert torch.equal(rule(rounds[0], server), first[0])
    rule(rounds[1], server)
    copy = Recurrent(**settings)
    copy.load_state_dict(rule.state_dict())
    assert torch.equal(copy(rounds[2], server), first[2])
    assert not torch.equal(rule(rounds[3], server), first[3])


@pytest.mark.parametrize("order", ["sorted", "trust"])
@pytest.mark.parametrize("workers", [1, 5, 10, 20, 50])
def test_any_number_of_workers(order, workers):
    context = Context(parameters=lambda: torch.zeros(6), public_losses=lambda v, n: v.square().sum(1))
    rule = Recurrent(worker_order=order, scale="median", loss_information=order == "trust")
    assert rule(torch.randn(workers, 6), context).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [1e6, 1e20, 1e30, torch.nan, torch.inf])
def test_any_rows_of_any_type(value, dtype):
    gradients = torch.randn(10, 6).to(dtype)
    gradients[:3] = value
    before = gradients.clone()
    for settings in ({}, {"worker_order": "sorted", "scale": "median"}):
        aggregate = Recurrent(**settings)(gradients)
        assert aggregate.dtype == dtype
        assert aggregate.shape == (6,)
        assert aggregate.isfinite().all()
        assert torch.equal(gradients[3:], before[3:])
    assert not Recurrent()(torch.full((10, 6), torch.nan, dtype=dtype)).any()
    assert Recurrent(worker_order="sorted")(torch.randn(1000, 1).to(dtype)).isfinite().all()


def test_float16_is_refused():
    with pytest.raises(SettingError, match=r"float32, float64 or bfloat16.*16-true.*got torch.float16"):
        Recurrent().half()(torch.randn(10, 6).half())


@pytest.mark.parametrize("name", ["mnist_rnn_lstm", "mnist_arnn_judge_gru"])
def test_memory_of_another_precision_is_taken_on(name):
    context = Context(
        parameters=lambda: torch.zeros(6),
        public_losses=lambda v, n: v.square().sum(1),
        public_gradient=lambda n: torch.ones(6),
    )
    gradients = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))
    precise, rule = Recurrent(weights=name).double(), Recurrent(weights=name)
    precise(gradients[0], context)
    rule.load_state_dict(precise.state_dict())
    assert rule.state.dtype == torch.float32
    assert rule.step.item() == 1
    torch.testing.assert_close(rule(gradients[1], context), precise(gradients[1], context))


def test_grouped_workers_are_those_of_a_smaller_pool():
    rule, gradients = Recurrent(worker_order="sorted", scale="median", slots=5), torch.randn(5, 6)
    small = rule(gradients)
    rule.reset()
    assert torch.allclose(rule(gradients.repeat_interleave(4, dim=0)), small, atol=1e-6)


def test_a_row_that_is_not_finite_is_absent():
    gradients = torch.randn(4, 6)
    rule = Recurrent(worker_order="sorted", scale="median", slots=3)
    without = rule(gradients[:3])
    rule.reset()
    gradients[3, 2] = torch.nan
    assert torch.equal(rule(gradients), without)
    assert rule.num_nonfinite == 1
    given = Recurrent(slots=4)
    assert given(gradients).isfinite().all()


def test_weights_travel_with_their_settings(tmp_path):
    rule = Recurrent(cell="gru", hidden_size=7, worker_order="sorted", scale="median", output_scale=0.5)
    rule.save(tmp_path / "w.safetensors")
    again = Recurrent(weights=str(tmp_path / "w.safetensors"))
    assert again.architecture == rule.architecture
    gradients = torch.randn(10, 6)
    assert torch.equal(again(gradients), rule(gradients))
    Recurrent(weights=str(tmp_path / "w.safetensors"), cell="gru")
    with pytest.raises(SettingError, match=re.escape("Recurrent.cell must be that of the weights")):
        Recurrent(weights=str(tmp_path / "w.safetensors"), cell="lstm")


def test_the_step_size_of_weights_may_be_changed(tmp_path):
    rule, gradients = Recurrent(slots=4), torch.randn(4, 7)
    rule.save(tmp_path / "w.safetensors")
    slower = Recurrent(weights=str(tmp_path / "w.safetensors"), output_scale=0.05)
    assert torch.allclose(2 * slower(gradients), rule(gradients))


def test_the_step_falls_after_a_while():
    settings = {"slots": 4, "scale": "median", "worker_order": "sorted", "momenta": [0.5]}
    torch.manual_seed(0)
    steady = Recurrent(**settings)
    falling = Recurrent(**settings, decay_after=3)
    falling.network.load_state_dict(steady.network.state_dict())
    gradients = [torch.randn(4, 7) for _ in range(6)]
    ratios = [(falling(rows) / steady(rows)).mean().item() for rows in gradients]
    assert ratios == pytest.approx([1, 1, 1, 3 / 4, 3 / 5, 3 / 6])
    falling.reset()
    steady.reset()
    assert torch.equal(falling(gradients[0]), steady(gradients[0]))


def test_weights_of_an_rnn_begin_an_arnn(tmp_path):
    """It begins by ignoring the losses, which it can learn to use."""
    shared = {"worker_order": "trust", "gate": True, "momenta": [0.0, 0.9], "running_scale": 0.9, "slots": 3}
    rnn, path = Recurrent(**shared, trust="peers"), tmp_path / "w.safetensors"
    rnn.save(path)
    arnn = Recurrent(weights=str(path), loss_information=True, trust="losses", num_samples=7)
    assert arnn.public_samples == 7
    inputs, state = torch.randn(7, 9), torch.randn(80, 9)
    # Three rows and their center, then three losses, then the scale and two momenta.
    seen = torch.cat([inputs[:4], torch.randn(3, 9), inputs[4:]])
    for ours, theirs in zip(arnn.network(seen, state), rnn.network(inputs, state), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    losses, network = slice(4, 7), arnn.network
    arnn.network(seen, state)[0].sum().backward()
    assert network.from_input[0].grad[:, losses].abs().sum() > 0


def test_bad_weights_are_told(tmp_path):
    Recurrent().save(tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.safetensors").write_text("not weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_file(
        {"a": torch.zeros(2)},
        tmp_path / "tensors.safetensors",
        {"architecture": json.dumps(Recurrent().architecture)},
    )
    for name, settings in (("brace", "{"), ("list", "[1]"), ("null", '{"momenta": null}')):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors", {"architecture": settings})
    diverged = Recurrent()
    next(diverged.network.parameters()).data.fill_(torch.nan)
    diverged.save(tmp_path / "nan.safetensors")
    for name, settings in (("cell", {"cell": "rnn"}), ("momenta", {"momenta": ["fast"]})):
        told = json.dumps({**Recurrent().architecture, **settings})
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors", {"architecture": told})
    for name, message in (
        ("nan", r"must be finite; those of .*nan.safetensors are not"),
        ("cell", r"settings that fit each other; .*cell.safetensors does not: cell must be one of"),
        ("momenta", r"momenta.safetensors does not: momenta must be in \[0, 1\), got 'fast'"),
        ("missing", "must be an existing file"),
        ("short", "complete safetensors file"),
        ("text", "complete safetensors file"),
        ("other", "lacks its settings"),
        ("tensors", "do not fit"),
        ("brace", "lacks its settings"),
        ("list", "lacks its settings"),
        ("null", "lacks its settings"),
    ):
        with pytest.raises(SettingError, match=message):
            Recurrent(weights=str(tmp_path / f"{name}.safetensors"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momenta": [0.9, 1.0]}, "momenta must be in [0, 1), got 1.0"),
        ({"running_scale": 1.0}, "running_scale must be in [0, 1), got 1.0"),
        ({"adaptivity": -0.5}, "adaptivity must be in [0, 1], got -0.5"),
        ({"normalization": 1.5}, "normalization must be in [0, 1], got 1.5"),
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ({"scale": "lead", "slots": 1}, "scale lead needs at least 2 slots, got 1"),
        ({"cell": "rnn"}, "cell"),
        ({"trust_decay": 1.1}, "trust_decay must be in [0, 1], got 1.1"),
        ({"trust_margin": 1.0}, "trust_margin must be in [0, 1), got 1.0"),
        ({"direction_decay": 1.0}, "direction_decay must be in [0, 1), got 1.0"),
        (
            {"direction_decay": 0.9},
            "direction_decay needs gate true, loss_information true or worker_order trust, got 0.9",
        ),
        ({"direction_margin": 0.5}, "direction_margin needs a direction_decay above 0, got 0.5"),
        (
            {"trust_decay": 0.9},
            "trust_decay needs gate true, loss_information true or worker_order trust, got 0.9",
        ),
        (
            {"trust_margin": 0.5},
            "trust_margin needs gate true, loss_information true or worker_order trust, got 0.5",
        ),
        ({"gate": True, "worker_order": "sorted"}, "gate needs worker_order given or trust"),
        ({"trust": "peers", "loss_information": True}, "trust peers needs loss_information false"),
        ({"trust": "peers"}, "trust peers needs gate true or worker_order trust, got neither"),
        (
            {"num_samples": 64},
            "Recurrent.num_samples is of the server's public samples, for which nothing asks",
        ),
        ({"trust": "peers", "gate": True, "trial_step": 0.5}, "line_search), got 0.5"),
        ({"scale": "trusted"}, "scale trusted needs gate true, got false"),
        ({"distrust_copies": True}, "distrust_copies needs gate true, got false"),
        ({"batch_scaling": 1.5}, "batch_scaling must be in [0, 1], got 1.5"),
        (
            {"batch_scaling": 0.5},
            "batch_scaling needs gate true: it is that of trusted workers, got false (0.5)",
        ),
        ({"gate": True, "batch_decay": 0.9}, "batch_decay needs a batch_scaling above 0, got 0.9 and 0"),
        ({"batch_decay": 1.0}, "batch_decay must be in [0, 1), got 1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        Recurrent(**settings)


def test_pool_sizes_that_cannot_be():
    with pytest.raises(SettingError, match=re.escape("needs M = slots (M = 9, slots = 10)")):
        Recurrent().check(9)
    with pytest.raises(SettingError, match=re.escape("p > 0.5 log M")):
        Recurrent(clamp_exponent=1.0).check(10)
    Recurrent(clamp_exponent=1.2).check(10)


def test_trained_weights_draw_no_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Recurrent(weights="mnist_arnn_lstm")
    assert torch.equal(torch.rand(1), expected)


def test_a_trial_loss_that_is_not_finite_is_the_least_trust():
    rows = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    found = features(rows, descending([0.2, math.nan, 0.4]), worker_order="trust", loss_information=True)
    assert torch.equal(found.inputs[:3, 0].argsort(), torch.tensor([1, 2, 0]))  # rows 3, 1, 2
    assert found.inputs[3:, 0].tolist() == pytest.approx([1.0, 0.5, -1 / 0.4], abs=1e-3)


def test_a_vote_takes_nothing_from_distrust():
    """Two copies whom nobody trusts: a quarter of a vote each, and all of their distrust."""
    settings = {"scale": "trusted", "gate": True, "worker_order": "trust", "distrust_copies": True}
    rows = [[5.0, 1.0], [2.0, 3.0], [-3.0, 9.0], [-3.0, 9.0]]
    found = features(rows, descending_rows([1.0, 1.0, -0.8, -0.8]), **settings, loss_information=True)
    assert found.inputs[5:, 0].tolist() == pytest.approx([1.0, 1.0, -0.8, -0.8], abs=1e-5)


def test_where_all_are_nearly_the_same_the_votes_are_whole():
    settings = {"scale": "trusted", "gate": True, "distrust_copies": True, "worker_order": "trust"}
    rows = [[5.0, 1.0], [5.01, 1.0], [4.99, 1.0]]
    found = features(rows, descending_rows([0.9, 0.6, 0.3]), **settings, loss_information=True)
    assert found.inputs[4:, 0].tolist() == pytest.approx([1.0, 2 / 3, 1 / 3], abs=1e-5)


def test_the_line_search_remembers_ten_rounds():
    carried, still = line_search.begin(torch.zeros(1)), torch.tensor([0.0])
    for index, start in enumerate([3.0, *[1.0] * 9]):
        _, carried = line_search.search(quadratic(start), still, carried, index, 4)
    assert carried[1:].max() == 9
    _, carried = line_search.search(quadratic(1.0), still, carried, 10, 4)
    assert carried[1:].tolist() == [1.0] * 10


def test_the_line_search_lets_a_negative_loss_rise_as_much():
    context = Context(
        parameters=lambda: torch.tensor([0.0]), public_losses=lambda vectors, n: vectors.sum(1) - 1
    )
    begun = line_search.begin(torch.zeros(1))
    # Up to a quarter of the size of the loss, from -1 to -0.75.
    assert line_search.search(context, torch.tensor([0.24]), begun, 0, 4)[0] == 1
    assert line_search.search(context, torch.tensor([0.26]), begun, 0, 4)[0] == 0.5
