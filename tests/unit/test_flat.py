"""Parameters <-> vector."""

import torch
from torch import nn

from lightning_agg import flat


def test_round_trip_with_and_without_leading_dimensions():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    parameters = flat.trainable(model)
    assert list(parameters) == ["0.weight", "1.weight", "1.bias"]
    vector = flat.flatten(parameters)
    assert vector.shape == (9,)
    for name, value in flat.unflatten(vector, parameters).items():
        assert torch.equal(value, parameters[name])
    rows = torch.stack([vector, 2 * vector])
    parts = flat.unflatten(rows, parameters)
    assert parts["0.weight"].shape == (2, 2, 3)
    assert torch.equal(flat.flatten_rows(parts), rows)
    assert not vector.requires_grad


def test_an_optimizer_that_writes_into_its_gradients_leaves_the_vector():
    model, vector = nn.Linear(3, 2), torch.arange(8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)
    for _ in range(2):
        flat.set_gradients(flat.trainable(model), vector)
        optimizer.step()
    assert torch.equal(vector, torch.arange(8.0))
    assert not torch.equal(model.bias.grad, vector[6:])


class Sharing(nn.Module):
    """A block in two places, and a weight that two blocks share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3).eval()

    def forward(self, x):
        return self.other(self.second(self.norm(self.first(x)).tanh()))


def test_a_call_with_other_values_leaves_a_block_that_stands_twice():
    torch.manual_seed(0)
    model, x = Sharing(), torch.randn(4, 3)
    own = flat.trainable(model)
    assert list(own) == ["first.weight", "first.bias", "other.bias", "norm.weight", "norm.bias"]
    before, parts = model(x), dict(model.named_parameters(remove_duplicate=False))
    values = {name: torch.randn_like(p) for name, p in own.items()}
    found = flat.call(model, values, x)
    assert dict(model.named_parameters(remove_duplicate=False)) == parts
    assert torch.equal(model(x), before)
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(values[name])
    assert torch.equal(found, model(x))
