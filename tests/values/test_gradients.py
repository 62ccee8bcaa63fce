"""Worker gradients against plain autograd, finite differences and themselves in other company."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lightning_agg.dense import DenseChain
from lightning_agg.errors import SettingError
from lightning_agg.flat import flatten, trainable, unflatten
from lightning_agg.gradients import _coefficients, _vectorized, cross_entropy, local_update, worker_gradients
from lightning_agg.models import MLP, ConvNet, ResNet

MODELS = {
    "sigmoid": (lambda: MLP(10, [7, 5]), (1, 3, 5)),
    "relu": (lambda: MLP(10, [13], "relu"), (11,)),
    "tanh": (lambda: MLP(10, [9], "tanh"), (11,)),
    "logistic": (lambda: MLP(10, []), (11,)),
    "linear in the last dimension": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 10)),
        (1, 3, 5),
    ),
    "conv": (lambda: ConvNet(10, [4, 5], hidden_size=6), (1, 9, 9)),
    "resnet": (lambda: ResNet(10, depth=8), (3, 8, 8)),
    "resnet with norm": (lambda: ResNet(10, depth=8, norm="group"), (3, 8, 8)),
}
SPLITS = [[5, 5], [4, 3, 3], [1] * 10]
SPLITS_OF_4 = [[3, 1], [1] * 4]


@pytest.fixture
def torch_threads():
    """A function that sets the number of threads for the length of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def system(name, m=4, batch=5, dtype=torch.float64):
    """A model with batches ``(m, batch)`` of random samples, and a mask with one worker without padding."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make()
    model(torch.zeros(1, *shape))
    inputs, targets = torch.randn(m, batch, *shape), torch.randint(0, 10, (m, batch))
    mask = torch.arange(batch) < torch.randint(1, batch, (m,))[:, None]
    mask[0] = True
    return model.to(dtype), inputs.to(dtype), targets, mask.to(dtype)


def one_gradient(model, inputs, targets):
    """Gradient of the mean loss by ``backward``."""
    model.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]), loss.detach()


def stack(pairs):
    first, second = zip(*pairs, strict=True)
    return torch.stack(first), torch.stack(second)


def by_autograd(outputs, targets):
    """Equal to ``cross_entropy``, but not it: keeps the written-out backpropagation away."""
    return cross_entropy(outputs, targets)


@pytest.mark.parametrize("name", MODELS)
def test_equals_backward(name):
    model, inputs, targets, _ = system(name)
    expected = stack(one_gradient(model, x, y) for x, y in zip(inputs, targets, strict=True))
    torch.testing.assert_close(worker_gradients(model, inputs, targets), expected)


@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_count(name):
    model, inputs, targets, mask = system(name)
    kept = [row.bool() for row in mask]
    expected = stack(one_gradient(model, x[k], y[k]) for x, y, k in zip(inputs, targets, kept, strict=True))
    torch.testing.assert_close(worker_gradients(model, inputs, targets, weights=mask), expected)


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_worker_without_samples_has_gradient_zero(name):
    model, inputs, targets, mask = system(name)
    mask[2] = 0
    gradients, losses = worker_gradients(model, inputs, targets, weights=mask)
    assert not gradients[2].any()
    assert losses[2] == 0
    assert gradients[[0, 1, 3]].any(dim=1).all()


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_equals_finite_differences(name):
    model, inputs, targets, mask = system(name, m=2, batch=3)
    like, theta = trainable(model), flatten(trainable(model))
    gradients, _ = worker_gradients(model, inputs, targets, weights=mask)

    def losses(vector):
        return worker_gradients(model, inputs, targets, parameters=unflatten(vector, like), weights=mask)[1]

    for i in range(0, len(theta), max(1, len(theta) // 40)):
        step = torch.zeros_like(theta)
        step[i] = 1e-6
        slope = (losses(theta + step) - losses(theta - step)) / 2e-6
        torch.testing.assert_close(gradients[:, i], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_row_is_the_same_bits_in_any_company(name, masked, threads, torch_threads):
    torch_threads(threads)
    splits = SPLITS if threads == 1 else SPLITS_OF_4
    model, inputs, targets, mask = system(name, m=sum(splits[0]), dtype=torch.float32)
    weights = mask if masked else None
    together = worker_gradients(model, inputs, targets, weights=weights)
    for split in splits:
        masks = mask.split(split) if masked else [None] * len(split)
        blocks = zip(inputs.split(split), targets.split(split), masks, strict=True)
        gradients, losses = zip(
            *(worker_gradients(model, x, y, weights=w) for x, y, w in blocks), strict=True
        )
        assert torch.equal(torch.cat(gradients), together[0])
        assert torch.equal(torch.cat(losses), together[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_row_is_the_same_bits_in_any_company_at_full_size(threads, torch_threads):
    torch_threads(threads)
    for model in (MLP(10), ConvNet(10, [20, 50], 5, "valid", 500)):
        inputs, targets = torch.randn(4, 64, 1, 28, 28), torch.randint(0, 10, (4, 64))
        model(inputs[0])
        together, _ = worker_gradients(model, inputs, targets)
        alone = [worker_gradients(model, inputs[i : i + 1], targets[i : i + 1])[0] for i in range(4)]
        assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("name", ["sigmoid", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("masked", [False, True])
def test_written_out_backpropagation_is_autograd_to_the_bit(name, masked):
    model, inputs, targets, mask = system(name, dtype=torch.float32)
    assert DenseChain.of(model) is not None
    weights = mask if masked else None
    written = worker_gradients(model, inputs, targets, weights=weights)
    autograd = worker_gradients(model, inputs, targets, weights=weights, loss=by_autograd)
    assert torch.equal(written[0], autograd[0])
    assert torch.equal(written[1], autograd[1])


def frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].bias.requires_grad_(False)
    return model


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def twice():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def hooked():
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    return model


class Doubled(nn.Sequential):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Unused(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.spare = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    "make",
    [
        frozen, tied, twice, hooked, Unused,
        lambda: Doubled(nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Softplus()),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 3))),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ],
)  # fmt: skip
def test_any_other_network_goes_through_autograd(make):
    torch.manual_seed(0)
    model = make()
    assert DenseChain.of(model) is None
    inputs, targets = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    gradients, _ = worker_gradients(model, inputs, targets)
    own = trainable(model)
    for row, x, y in zip(gradients, inputs, targets, strict=True):
        loss = F.cross_entropy(model(x), y)
        expected = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("given", ["none", "shared", "per worker"])
def test_vectorized_form_is_close(name, given):
    model, inputs, targets, mask = system(name)
    own = trainable(model)
    parameters = {
        "none": None,
        "shared": {n: 2 * p.detach() for n, p in own.items()},
        "per worker": {n: torch.stack([p.detach() + i for i in range(4)]) for n, p in own.items()},
    }[given]
    coefficients = _coefficients(inputs, mask, torch.float64)
    vectorized = _vectorized(model, inputs, targets, parameters, coefficients, cross_entropy, chunk_size=3)
    torch.testing.assert_close(
        vectorized, worker_gradients(model, inputs, targets, parameters=parameters, weights=mask)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk_size", [None, 3, 1])
@pytest.mark.parametrize("name", MODELS)
def test_gpu_is_close(name, chunk_size):
    model, inputs, targets, mask = system(name)
    expected = worker_gradients(model, inputs, targets, weights=mask)
    moved = [t.cuda() for t in (inputs, targets, mask)]
    found = worker_gradients(model.cuda(), *moved[:2], weights=moved[2], chunk_size=chunk_size)
    torch.testing.assert_close([t.cpu() for t in found], list(expected))


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_given_parameters_replace_the_models_own(name):
    model, inputs, targets, _ = system(name, dtype=torch.float32)
    own = trainable(model)
    same = {n: p.detach().clone() for n, p in own.items()}
    each = {n: p.detach().expand(4, *p.shape) for n, p in own.items()}
    expected, _ = worker_gradients(model, inputs, targets)
    for parameters in (same, each):
        assert torch.equal(worker_gradients(model, inputs, targets, parameters=parameters)[0], expected)
    doubled = {n: 2 * p for n, p in same.items()}
    found, _ = worker_gradients(model, inputs, targets, parameters=doubled)
    with torch.no_grad():
        for p in own.values():
            p.mul_(2)
    assert torch.equal(found, worker_gradients(model, inputs, targets)[0])


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_leaves_the_model_alone_and_works_without_grad_mode(name):
    model, inputs, targets, _ = system(name)
    before = flatten(trainable(model))
    expected, _ = worker_gradients(model, inputs, targets)
    with torch.no_grad():
        gradients, losses = worker_gradients(model, inputs, targets)
    assert torch.equal(gradients, expected)
    assert not gradients.requires_grad
    assert not losses.requires_grad
    assert torch.equal(flatten(trainable(model)), before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_no_workers(name):
    model, inputs, targets, _ = system(name)
    size = len(flatten(trainable(model)))
    gradients, losses = worker_gradients(model, inputs[:0], targets[:0])
    assert gradients.shape == (0, size)
    assert losses.shape == (0,)
    update, _ = local_update(model, torch.stack([inputs[:0]] * 2, 1), torch.stack([targets[:0]] * 2, 1), 0.1)
    assert update.shape == (0, size)


def test_squared_error_with_targets_of_any_shape():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    inputs, targets = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    gradients, losses = worker_gradients(
        model, inputs, targets, loss=lambda outputs, y: (outputs - y).square().sum(dim=1)
    )
    for i in range(4):
        residual = (model(inputs[i]) - targets[i]).detach()
        torch.testing.assert_close(losses[i], residual.square().sum(1).mean())
        torch.testing.assert_close(gradients[i, :6].view(2, 3), 2 / 5 * residual.T @ inputs[i])


def test_errors_name_the_rule():
    inputs, targets = torch.zeros(4, 5, 3), torch.zeros(4, 5, dtype=torch.long)
    with pytest.raises(SettingError, match=r"one value for each of the 5 samples, got shape \(\)"):
        worker_gradients(nn.Linear(3, 2), inputs, targets, loss=F.cross_entropy)
    with pytest.raises(SettingError, match="Linear has none"):
        worker_gradients(nn.Linear(3, 2).requires_grad_(False), inputs, targets)


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
@pytest.mark.parametrize("masked", [False, True])
def test_one_local_step_is_the_gradient(name, masked):
    model, inputs, targets, mask = system(name, dtype=torch.float32)
    gradients, losses = worker_gradients(model, inputs, targets, weights=mask if masked else None)
    update, first = local_update(
        model, inputs[:, None], targets[:, None], 0.3, weights=mask[:, None] if masked else None
    )
    assert torch.equal(update, gradients)
    assert torch.equal(first, losses)


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
@pytest.mark.parametrize("masked", [False, True])
def test_local_steps_are_sgd(name, masked):
    model, inputs, targets, mask = system(name, batch=12)
    inputs, targets, mask = (t.unflatten(1, (3, 4)) for t in (inputs, targets, mask))
    if masked:
        mask = (torch.arange(4) < torch.tensor([4, 1, 2])[:, None]).double().expand(4, 3, 4)
    else:
        mask = torch.ones_like(mask)
    update, losses = local_update(model, inputs, targets, 0.3, weights=mask if masked else None)
    theta, like = flatten(trainable(model)), trainable(model)
    for worker in range(4):
        model_parameters = {n: p.detach().clone().requires_grad_() for n, p in like.items()}
        optimizer = torch.optim.SGD(model_parameters.values(), lr=0.3)
        for step in range(3):
            kept = mask[worker, step].bool()
            outputs = functional_call(model, model_parameters, (inputs[worker, step][kept],))
            loss = F.cross_entropy(outputs, targets[worker, step][kept])
            if step == 0:
                torch.testing.assert_close(losses[worker], loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(update[worker], (theta - flatten(model_parameters)) / 0.3)


@pytest.mark.parametrize("make", [tied, twice])
@pytest.mark.parametrize("vectorized", [False, True])
def test_local_steps_of_what_stands_twice_leave_the_model_alone(make, vectorized):
    torch.manual_seed(0)
    model = make()
    own = trainable(model)
    theta, inputs, targets = flatten(own), torch.randn(2, 4, 3), torch.randint(0, 3, (2, 4))
    if vectorized:
        values = {name: 2 * p.detach() for name, p in own.items()}
        coefficients = _coefficients(inputs, None, torch.float32)
        found, _ = _vectorized(model, inputs, targets, values, coefficients, cross_entropy, chunk_size=None)
        expected = torch.stack(
            [one_gradient(_moved(make(), 2 * theta), x, y)[0] for x, y in zip(inputs, targets, strict=True)]
        )
    else:
        found, _ = local_update(
            model, inputs[:, None].expand(2, 2, 4, 3), targets[:, None].expand(2, 2, 4), 0.3
        )
        first = torch.stack(
            [one_gradient(_moved(make(), theta), x, y)[0] for x, y in zip(inputs, targets, strict=True)]
        )
        second = [
            one_gradient(_moved(make(), theta - 0.3 * row), x, y)[0]
            for row, x, y in zip(first, inputs, targets, strict=True)
        ]
        expected = first + torch.stack(second)
    torch.testing.assert_close(found, expected)
    assert torch.equal(flatten(trainable(model)), theta)
    assert trainable(model).keys() == own.keys()


def _moved(model, theta):
    nn.utils.vector_to_parameters(theta, model.parameters())
    return model


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_local_steps_start_where_they_are_told(name):
    model, inputs, targets, _ = system(name, batch=4)
    inputs, targets = inputs.unflatten(1, (2, 2)), targets.unflatten(1, (2, 2))
    starts = {n: torch.stack([p.detach() + i / 10 for i in range(4)]) for n, p in trainable(model).items()}
    together, _ = local_update(model, inputs, targets, 0.3, parameters=starts)
    for worker in range(4):
        alone, _ = local_update(
            model,
            inputs[worker : worker + 1],
            targets[worker : worker + 1],
            0.3,
            parameters={n: p[worker] for n, p in starts.items()},
        )
        torch.testing.assert_close(together[worker], alone[0])


@pytest.mark.parametrize("name", ["sigmoid", "conv"])
def test_local_updates_are_the_same_bits_in_any_company(name):
    model, inputs, targets, _ = system(name, m=10, batch=6, dtype=torch.float32)
    inputs, targets = inputs.unflatten(1, (3, 2)), targets.unflatten(1, (3, 2))
    together, _ = local_update(model, inputs, targets, 0.3)
    for split in SPLITS:
        blocks = zip(inputs.split(split), targets.split(split), strict=True)
        assert torch.equal(torch.cat([local_update(model, x, y, 0.3)[0] for x, y in blocks]), together)
