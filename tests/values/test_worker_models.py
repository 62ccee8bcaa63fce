"""Workers with models of their own against autograd and a plain loop."""

import re

import pytest
import torch
from runs_models import Normed
from servers import fit
from torch import nn
from torch.nn import functional as F

from lightning_agg.aggregators import Mean
from lightning_agg.data import DigitsPool
from lightning_agg.errors import SettingError
from lightning_agg.flat import trainable
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules.worker_models import shared_positions

LR, OWN_LR, ROUNDS = 0.5, 0.3, 4


def data(pool_size=5):
    return DigitsPool(pool_size=pool_size, batch_size=8, seed=0)


def small(num_classes):
    return MLP(num_classes, hidden_sizes=[4])


def wide(num_classes):
    return MLP(num_classes, hidden_sizes=[6])


def deep(num_classes):
    return MLP(num_classes, hidden_sizes=[4, 5], activation="relu")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LR)


def server(rounds, *models, **settings):
    return fit(
        rounds,
        data(),
        model=small,
        optimizer=sgd,
        worker_models=list(models) or None,
        **({"local_lr": OWN_LR} if models else {}),
        **settings,
    )


def take_over(model, theirs):
    """Put the global parameters into a worker's model: the last layer into the last, the others into the first."""
    ours = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    layers = [layer for layer in theirs.modules() if isinstance(layer, nn.Linear)]
    for source, target in zip(ours, [*layers[: len(ours) - 1], layers[-1]], strict=True):
        out, into = source.weight.shape
        target.weight.data[:out, :into] = source.weight.data
        target.bias.data[:out] = source.bias.data


def shared_gradients(model, theirs):
    ours = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    layers = [layer for layer in theirs.modules() if isinstance(layer, nn.Linear)]
    parts = []
    for source, target in zip(ours, [*layers[: len(ours) - 1], layers[-1]], strict=True):
        out, into = source.weight.shape
        parts += [target.weight.grad[:out, :into].flatten(), target.bias.grad[:out]]
    return torch.cat(parts)


def test_rounds_are_those_of_a_plain_loop():
    """Every worker keeps a whole model; what it shares is overwritten before each round, the rest descends."""
    begin = server(0, small, wide, deep)
    model, models = begin.model, begin.worker_models.models
    factories, workers = (small, wide, deep), []
    for worker in range(5):
        own = factories[worker % 3](10)
        own(torch.zeros(1, *begin.data.sample_shape))
        own.load_state_dict(models[worker % 3].state_dict())
        workers.append(own)
    for step in range(ROUNDS):
        inputs, targets, _ = begin.data.pool.batch(range(5), step)
        rows = []
        for own, x, y in zip(workers, inputs, targets, strict=True):
            take_over(model, own)
            own.zero_grad()
            F.cross_entropy(own(x), y).backward()
            rows.append(shared_gradients(model, own))
            with torch.no_grad():
                for p in own.parameters():
                    p -= OWN_LR * p.grad
        mean, start = torch.stack(rows).mean(0), 0
        with torch.no_grad():
            for p in trainable(model).values():
                p -= LR * mean[start : start + p.numel()].view_as(p)
                start += p.numel()
    trained = server(ROUNDS, small, wide, deep)
    for ours, plain in zip(trainable(trained.model).values(), trainable(model).values(), strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)
    assert not trained.worker_models.own[::3].any()  # nothing is left where the model is the global one
    take_over(model, workers[1])
    hidden, output = (layer for layer in workers[1].modules() if isinstance(layer, nn.Linear))
    left = torch.cat([hidden.weight[4:].flatten(), hidden.bias[4:], output.weight[:, 4:].flatten()])
    assert torch.allclose(trained.worker_models.own[1, : len(left)], left, atol=1e-6)
    assert not torch.allclose(begin.worker_models.own[1, : len(left)], left, atol=1e-3)


def test_workers_with_the_global_model_are_as_without():
    plain, same = server(ROUNDS), server(ROUNDS, small)
    assert same.worker_models.own.shape == (5, 0)
    for a, b in zip(plain.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_they_have_the_precision_of_the_global_model(precision, dtype):
    plain, same = server(ROUNDS, precision=precision), server(ROUNDS, small, precision=precision)
    for a, b in zip(plain.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(a, b)
    mixed = server(ROUNDS, small, wide, deep, precision=precision)
    assert mixed.worker_models.own.dtype == dtype
    assert {p.dtype for model in mixed.worker_models.models for p in model.parameters()} == {dtype}


def test_a_worker_that_is_not_drawn_keeps_its_own_part():
    begin, trained = server(0, wide, participation=0.4), server(1, wide, participation=0.4)
    moved = (begin.worker_models.own != trained.worker_models.own).any(dim=1)
    assert moved.sum() == 2


def test_an_own_part_that_is_not_finite_is_not_descended():
    begin = server(0, wide)
    width = sum(p.numel() for p in trainable(begin.model).values())
    before = begin.worker_models.own.clone()
    rows = torch.ones(2, width + before.shape[1])
    rows[0, -1] = torch.inf
    assert torch.equal(begin.worker_models.descend(rows, [3, 4]), torch.ones(2, width))
    assert torch.equal(begin.worker_models.own[:4], before[:4])
    assert torch.allclose(begin.worker_models.own[4], before[4] - OWN_LR)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker_models": [lambda classes: MLP(classes, hidden_sizes=[3])]}, "1.weight of shape (4, 64) is not in 1.weight of shape (3, 64)"),
        ({"worker_models": [lambda classes: MLP(classes, hidden_sizes=[])]}, "at least the layers of the global model, got 1"),
        ({"worker_models": [ConvNet]}, "model.worker_models must"),
        ({"worker_models": [Normed]}, "model.worker_models must not use batch normalisation"),
        ({"worker_models": []}, "model.worker_models must hold a model, or be null, got []"),
        ({"worker_models": [wide], "local_steps": 2}, "model.local_steps must be 1 with model.worker_models, got 2"),
    ],
)  # fmt: skip
def test_wrong_models(settings, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        fit(0, data(), aggregator=Mean(), model=small, **settings)


def test_tensors_of_another_kind_are_no_counterparts():
    target = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
    with pytest.raises(SettingError, match=re.escape("0.bias of shape (2,) is not in nothing")):
        shared_positions(target, {"0.weight": torch.zeros(3, 3)})
    with pytest.raises(
        SettingError, match=re.escape("0.weight of shape (2, 2) is not in 0.weight of shape (3, 3, 3)")
    ):
        shared_positions(target, {"0.weight": torch.zeros(3, 3, 3), "0.bias": torch.zeros(2)})
