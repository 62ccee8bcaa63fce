"""What the server learns from its public data."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_agg import flat, seeding
from lightning_agg.data.samples import Samples
from lightning_agg.models import MLP, ConvNet
from lightning_agg.modules.public import server_context


@pytest.mark.parametrize("make_model", [MLP, ConvNet])
def test_public_losses_are_those_of_the_model_at_each_vector(make_model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make_model(10)
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    public = Samples(images, torch.randint(0, 10, (30,)))
    model(torch.zeros(1, 3, 8, 8))
    start = flat.flatten(flat.trainable(model)).detach()
    vectors = start + 0.1 * torch.randn(4, len(start))

    losses = server_context(model, public, lambda: start, index=7, seed=3).public_losses(vectors, 12)

    x, y = public.read(torch.from_numpy(seeding.generator(3, "public", step=7).choice(30, 12, replace=False)))
    expected = []
    for vector in vectors:
        nn.utils.vector_to_parameters(vector, model.parameters())
        expected.append(F.cross_entropy(model(x), y))
    torch.testing.assert_close(losses, torch.stack(expected))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_server_moves_as_workers_do_in_their_local_steps(steps: int) -> None:
    torch.manual_seed(0)
    model = MLP(10)
    public = Samples(torch.rand(30, 1, 8, 8), torch.randint(0, 10, (30,)))
    model(torch.zeros(1, 1, 8, 8))
    start = flat.flatten(flat.trainable(model)).detach()
    context = server_context(model, public, lambda: start, index=7, seed=3, local_steps=steps, local_lr=0.5)
    moved = context.public_gradient(12)

    x, y = public.read(torch.from_numpy(seeding.generator(3, "public", step=7).choice(30, 12, replace=False)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    end = flat.flatten(flat.trainable(model)).detach()
    torch.testing.assert_close(moved, (start - end) / 0.5, rtol=1e-4, atol=1e-6)
