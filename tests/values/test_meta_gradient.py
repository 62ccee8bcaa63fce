"""The meta-gradient: by replay, by one graph, by finite differences."""

from dataclasses import replace

import pytest
import torch
from servers import quiet_trainer
from torch import nn

from lightning_agg.aggregators import Context, recurrent_network
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.recurrent_network import RecurrentNetwork
from lightning_agg.aggregators.recurrent_window import Window
from lightning_agg.attacks import SignFlip
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.data import DigitsPool
from lightning_agg.estimators import Replay, UnrolledGraph
from lightning_agg.flat import trainable, unflatten
from lightning_agg.models import MLP
from lightning_agg.modules import MetaLearner
from lightning_agg.modules.meta_gradient import mean_over_tasks
from lightning_agg.partitioners import QuantitySkew
from lightning_agg.unroll import advance

RNN = {"slots": 4}
ARNN = {
    "slots": 3, "loss_information": True, "worker_order": "trust", "scale": "trusted", "running_scale": 0.9,
    "adaptivity": 0.5, "normalization": 0.5, "gate": True, "trust_decay": 0.9, "momenta": [0.0, 0.9], "distrust_copies": True, "decay_after": 2,
}  # fmt: skip
SEARCHING = {
    **ARNN,
    "direction_decay": 0.8,
    "direction_margin": 0.25,
    "batch_scaling": 0.5,
    "batch_decay": 0.75,
    "line_search": True,
    "output_scale": 1000.0,
}
JUDGED = {
    **{name: value for name, value in ARNN.items() if name not in ("trust_decay", "distrust_copies")},
    "trust": "learned",
    "batch_scaling": 0.5,
}
SORTED_GRU = {"slots": 4, "cell": "gru", "worker_order": "sorted", "scale": "median"}
K = 5
LOSS_CAP = 1e9


class TinyMLP(MLP):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, hidden_sizes=[3])


def learner(settings, num_tasks=2, byzantine=1, seed=0, data=None, **more):
    torch.manual_seed(seed)
    module = MetaLearner(
        Recurrent(**settings),
        model=TinyMLP,
        horizon=2 * K,
        truncation_length=K,
        num_tasks=num_tasks,
        seed=seed,
        **more,
    )
    trainer = quiet_trainer(0, [ByzantineInjection(SignFlip(), byzantine, seed=seed)])
    trainer.fit(
        module, datamodule=DigitsPool(**{"pool_size": 4, "batch_size": 8, "seed": seed, **(data or {})})
    )
    with torch.no_grad():
        # Far from its small beginning, so that every weight has an influence.
        for p in module.aggregator.parameters():
            p += 0.3 * torch.randn_like(p)
    module.double()
    for task in range(num_tasks):
        module._begin_if_finished(task)
    return module


def gradient(module, estimator, weights=None, windows=1):
    state = module.tasks.state
    weights = torch.linspace(0.5, 1.5, K, dtype=torch.float64) if weights is None else weights
    for window in range(windows):
        gradients, losses, state, _ = estimator.window(
            module.problem, module.aggregator, state, weights, LOSS_CAP, (0, window)
        )
    return torch.cat([g.mean(0).flatten() for g in gradients]), losses, state


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    "settings",
    [RNN, ARNN, SORTED_GRU, SEARCHING, JUDGED],
    ids=["rnn", "arnn", "sorted gru", "searching", "judged"],
)
@pytest.mark.parametrize("chunk_size", [10**6, 17])
def test_replay_is_the_graph_with_the_dashed_edges_dropped(settings, chunk_size):
    module = learner(settings)
    by_graph, losses, state = gradient(module, UnrolledGraph(), windows=2)
    by_replay, same_losses, same_state = gradient(module, Replay(chunk_size=chunk_size), windows=2)
    assert by_graph.norm() > 1e-3
    assert relative(by_replay, by_graph) < 1e-10
    assert torch.allclose(losses, same_losses, rtol=1e-12)
    assert torch.allclose(state.parameters, same_state.parameters, rtol=1e-10)
    assert state.steps == same_state.steps == (2 * K, 2 * K)
    shortened = [0.0, *(float(seen.search[0]) for seen in state.seen if len(seen.search))]
    assert (max(shortened) > 0) == (settings is SEARCHING)


def test_the_meta_loss_may_be_of_the_logarithm():
    module, plain = learner(ARNN, log_loss=True), learner(ARNN)
    by_graph, losses, _ = gradient(module, UnrolledGraph())
    by_replay, same_losses, _ = gradient(module, Replay())
    assert relative(by_replay, by_graph) < 1e-10
    assert torch.allclose(losses, same_losses, rtol=1e-12)
    by_loss, plain_losses, _ = gradient(plain, Replay())
    assert torch.allclose(losses, plain_losses.log(), rtol=1e-12)
    assert relative(by_replay, by_loss) > 0.1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("width", [11, 4])
@pytest.mark.parametrize("direct", [0, 2])
def test_backpropagation_by_hand_is_that_of_autograd(cell, num_layers, width, direct):
    torch.manual_seed(0)
    network = RecurrentNetwork(3, cell, hidden_size=5, num_layers=num_layers, direct=direct).double()
    for p in network.parameters():
        nn.init.normal_(p)
    inputs, cotangents = torch.randn(K, 3, 11).double(), torch.randn(K, 11).double()
    start = torch.randn(network.state_size, 11).double()
    state, total = start, 0.0
    for x, cotangent in zip(inputs, cotangents, strict=True):
        output, state = network(x, state)
        total = total + output @ cotangent
    total.backward()
    window = Window(network, K, width)
    for begin in range(0, 11, width):
        columns = slice(begin, begin + width)
        window.forward(list(inputs[:, :, columns]), start[:, columns])
        window.backward(cotangents[:, columns])
    for p, gradient in zip(network.parameters(), window.gradients(), strict=True):
        assert relative(gradient, p.grad) < 1e-12


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("direct", [0, 2])
def test_a_round_without_a_graph_is_that_with_one(cell, direct, monkeypatch):
    monkeypatch.setattr(recurrent_network, "CACHED", 4)
    torch.manual_seed(0)
    network = RecurrentNetwork(3, cell, hidden_size=5, direct=direct).double()
    inputs, start = torch.randn(K, 3, 11).double(), torch.randn(network.state_size, 11).double()
    kept, state, in_place = start.clone(), start, start.clone()
    for x in inputs:
        with torch.no_grad():
            output, after = network(x, state)
        expected, expected_state = network(x, state)
        assert relative(output, expected) < 1e-12
        assert relative(after, expected_state) < 1e-12
        assert torch.equal(network.step_(x, in_place), output)
        assert torch.equal(in_place, after)
        state = after
    assert torch.equal(start, kept)


@pytest.mark.parametrize("settings", [ARNN, SEARCHING, JUDGED], ids=["arnn", "searching", "judged"])
def test_a_scaled_task_is_the_training_of_x(settings):
    module = learner(settings, num_tasks=1, parameter_scaling=1.0)
    state, c = module.tasks.state, module.scaling(module.tasks.state.episodes[0])
    received = module.problem.round(state.parameters[0], state.episodes[0], 0)
    plain = learner(settings, num_tasks=1)
    at_theta = plain.problem.round(state.parameters[0], state.episodes[0], 0).context
    of_x = Context(
        parameters=lambda: state.parameters[0] / c,
        public_losses=lambda vectors, n: at_theta.public_losses(vectors * c, n),
        public_gradient=lambda n: at_theta.public_gradient(n) * c,
    )
    with torch.no_grad():
        scaled, *_ = advance(module.aggregator, [received], replace(state, memory=state.memory.clone()))
        x_state = replace(state, parameters=state.parameters / c, memory=state.memory.clone())
        x, *_ = advance(module.aggregator, [replace(received, context=of_x, scaling=1.0)], x_state)
    assert c.unique().numel() == 4
    assert (scaled.parameters - state.parameters).abs().max() > 0
    assert relative(scaled.parameters, c * x.parameters) < 1e-12
    unscaled = plain.problem.round(state.parameters[0], state.episodes[0], 0).gradients
    assert relative(received.gradients, c * unscaled) < 1e-12


def test_a_task_that_receives_nothing_finite_stays_where_it_is():
    module = learner(ARNN)
    state = module.tasks.state
    received = [module.problem.round(*at, 0) for at in zip(state.parameters, state.episodes, strict=True)]
    with torch.no_grad():
        state, *_ = advance(module.aggregator, received, state)
        received[1] = replace(received[1], gradients=torch.full_like(received[1].gradients, torch.nan))
        after, *_ = advance(module.aggregator, received, replace(state, memory=state.memory.clone()))
    assert torch.equal(after.parameters[1], state.parameters[1])
    assert all(map(torch.equal, after.seen[1], state.seen[1]))
    assert not torch.equal(after.parameters[0], state.parameters[0])


def test_second_order_gradient_is_the_slope_of_the_meta_loss():
    module = learner(RNN, byzantine=0)  # an attack answers what it sees, but without a graph
    ones = torch.ones(K, dtype=torch.float64)
    second, _, _ = gradient(module, UnrolledGraph(second_order=True), ones)
    first, _, _ = gradient(module, UnrolledGraph(), ones)
    start = nn.utils.parameters_to_vector(module.aggregator.network.parameters()).detach().clone()
    direction = torch.randn(len(start), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    slopes = []
    for step in (1e-4, 1e-5):
        up, down = (
            meta_loss_at(module, start + step * direction),
            meta_loss_at(module, start - step * direction),
        )
        slopes.append(((up - down) / (2 * step)).item())
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)
    assert (second @ direction).item() == pytest.approx(slopes[1], rel=1e-4)
    assert relative(first, second) > 1e-3


def meta_loss_at(module, vector):
    nn.utils.vector_to_parameters(vector.clone(), module.aggregator.network.parameters())
    _, losses, *_ = UnrolledGraph().window(
        module.problem,
        module.aggregator,
        module.tasks.state,
        torch.ones(K, dtype=torch.float64),
        LOSS_CAP,
        (0, 0),
    )
    return losses[1:].mean(1).sum().detach()


def test_a_subset_of_the_coordinates_is_unbiased():
    module = learner(RNN)
    whole, _, _ = gradient(module, Replay())
    weights = torch.linspace(0.5, 1.5, K, dtype=torch.float64)
    samples = []
    for index in range(200):
        gradients, *_ = Replay(num_coordinates=120).window(
            module.problem, module.aggregator, module.tasks.state, weights, LOSS_CAP, (0, index)
        )
        samples.append(torch.cat([g.mean(0).flatten() for g in gradients]))
    samples = torch.stack(samples)
    assert samples.std(0).norm() > 0.01 * whole.norm()
    directions = torch.randn(len(whole), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for direction in (whole, *directions.T):
        along = samples @ direction
        assert abs(along.mean() - whole @ direction) < 4 * along.std() / len(along) ** 0.5


def test_the_clipped_loss_is_constant():
    module = learner(RNN)
    state, weights = module.tasks.state, torch.ones(K, dtype=torch.float64)
    for estimator in (Replay(), UnrolledGraph()):
        gradients, *_ = estimator.window(module.problem, module.aggregator, state, weights, 0.0, (0, 0))
        assert not any(g.any() for g in gradients)


def test_tasks_do_not_touch_each_other():
    module = learner(ARNN, num_tasks=2)
    both = Replay().window(
        module.problem, module.aggregator, module.tasks.state, torch.ones(K).double(), LOSS_CAP, (0, 0)
    )
    size = module.tasks.size
    alone = replace(
        module.tasks.state, parameters=module.tasks.theta[1:], memory=module.tasks.memory[:, size:],
        seen=module.tasks.state.seen[1:], episodes=module.tasks.state.episodes[1:], steps=module.tasks.state.steps[1:],
    )  # fmt: skip
    one = Replay().window(module.problem, module.aggregator, alone, torch.ones(K).double(), LOSS_CAP, (0, 0))
    assert torch.allclose(both.after.parameters[1:], one.after.parameters, rtol=1e-12)
    assert torch.allclose(both.losses[:, 1:], one.losses, rtol=1e-12)
    for of_both, of_one in zip(both.gradients, one.gradients, strict=True):
        assert of_one.any()
        assert torch.allclose(of_both[1:], of_one, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("estimator", [Replay(), Replay(num_coordinates=120)])
def test_each_task_has_its_own_gradient(estimator):
    """A task that has diverged gives none, and the others are as they were without it."""
    module = learner(ARNN, num_tasks=2)
    arguments = (torch.ones(K).double(), LOSS_CAP, (0, 0))
    sound, *_ = estimator.window(module.problem, module.aggregator, module.tasks.state, *arguments)
    module.tasks.theta[0] = torch.nan
    broken, *_ = estimator.window(module.problem, module.aggregator, module.tasks.state, *arguments)
    for before, after in zip(sound, broken, strict=True):
        assert before[0].any()
        assert torch.equal(before[1], after[1])
        assert not after[0].any()


def test_the_mean_over_tasks_scales_and_drops():
    gradients = [
        torch.tensor([[3.0, 0.0], [0.3, 0.0], [torch.nan, 1.0], [0.0, 0.0]]),
        torch.tensor([[[4.0]], [[0.4]], [[1.0]], [[0.0]]]),
    ]
    clipped = mean_over_tasks(gradients, largest_norm=1.0)
    assert [g.tolist() for g in clipped] == [pytest.approx([0.9 / 4, 0.0]), [pytest.approx([1.2 / 4])]]
    whole = mean_over_tasks(gradients, largest_norm=None)
    assert [g.tolist() for g in whole] == [pytest.approx([3.3 / 4, 0.0]), [pytest.approx([4.4 / 4])]]


def test_padding_counts_for_nothing():
    """Full batches of unequal shards: both estimators see the shards, not what fills them up."""
    module = learner(
        {"slots": 4}, byzantine=0, data={"batch_size": "full", "partitioner": QuantitySkew(min_size=20)}
    )
    theta, episode = module.tasks.theta[0], 0
    found = module.problem.round(theta, episode, 0)
    graph = module.problem.differentiable_round(theta, episode, 0, second_order=False)
    rows = []
    for shard in module.data.pool.shards:
        images, labels = module.data.pool.data.read(torch.from_numpy(shard))
        values = unflatten(theta, trainable(module.model))
        values = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = nn.functional.cross_entropy(
            torch.func.functional_call(module.model, values, (images.double(),)), labels
        )
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(values.values()))]))
    assert len({len(shard) for shard in module.data.pool.shards}) > 1
    assert torch.allclose(found.gradients, torch.stack(rows), rtol=1e-9)
    assert torch.allclose(graph.gradients, torch.stack(rows), rtol=1e-9)


@pytest.mark.parametrize("settings", [RNN, ARNN, JUDGED])
def test_a_diverged_task_stays_where_it_is(settings):
    module = learner({**settings, "slots": 4}, num_tasks=1)
    module.tasks.theta.fill_(torch.nan)
    weights = torch.ones(K, dtype=torch.float64)
    gradients, losses, state, examples = Replay().window(
        module.problem, module.aggregator, module.tasks.state, weights, LOSS_CAP, (0, 0)
    )
    assert state.parameters.isnan().all()
    assert losses.isnan().all()
    assert not any(g.any() for g in gradients)
    assert not any(example.counts.any() for example in examples)
