"""What the server knows: losses and gradients on its public data."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lightning_agg import flat, seeding
from lightning_agg.aggregators.context import Context
from lightning_agg.data.samples import Samples, as_precise
from lightning_agg.dense import DenseChain
from lightning_agg.gradients import worker_gradients
from lightning_agg.losses import mean_loss


def server_context(
    model: nn.Module, public: Samples, parameters: Callable[[], Tensor], index: int, seed: int
) -> Context:
    """The context of round ``index``; its public samples are drawn anew from (seed, index)."""
    return Context(
        round=index,
        seed=seed,
        parameters=parameters,
        public_losses=partial(_losses, model, public, seed, index),
        public_gradient=partial(_gradient, model, public, seed, index, parameters),
    )


def _batch(public: Samples, seed: int, index: int, num_samples: int) -> tuple[Tensor, Tensor]:
    rng = seeding.generator(seed, "public", step=index)
    chosen = torch.from_numpy(rng.choice(len(public), num_samples, replace=False))
    return public.read(chosen.to(public.labels.device))


def _losses(
    model: nn.Module, public: Samples, seed: int, index: int, vectors: Tensor, num_samples: int
) -> Tensor:
    inputs, labels = _batch(public, seed, index, num_samples)
    inputs = as_precise(inputs, vectors.dtype)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return mean_loss(model, functional_call(model, parameters, (inputs,)), labels)

    own = flat.trainable(model)
    # On the CPU a vectorised convolution is several times slower than one after another.
    if vectors.device.type == "cpu" and DenseChain.of(model) is None:
        return torch.stack([loss(flat.unflatten(vector, own)) for vector in vectors])
    losses: Tensor = vmap(loss)(flat.unflatten(vectors, own))
    return losses


def _gradient(
    model: nn.Module,
    public: Samples,
    seed: int,
    index: int,
    parameters: Callable[[], Tensor],
    num_samples: int,
) -> Tensor:
    inputs, labels = _batch(public, seed, index, num_samples)
    at = parameters()
    values = flat.unflatten(at, flat.trainable(model))
    gradient, _ = worker_gradients(model, as_precise(inputs, at.dtype)[None], labels[None], parameters=values)
    return gradient[0]
