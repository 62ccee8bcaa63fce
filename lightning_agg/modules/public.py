"""What the server knows: losses and gradients on its public data."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vmap

from lightning_agg import flat, seeding
from lightning_agg.aggregators.context import Context
from lightning_agg.data.samples import Samples, as_precise
from lightning_agg.dense import DenseChain
from lightning_agg.gradients import local_update
from lightning_agg.losses import mean_loss


def server_context(
    model: nn.Module,
    public: Samples,
    parameters: Callable[[], Tensor],
    index: int,
    seed: int,
    local_steps: int = 1,
    local_lr: float = 0.1,
) -> Context:
    """The context of round ``index``; its public samples are drawn anew from (seed, index).

    Where the workers send what they are moved by in ``local_steps`` steps, so does the server, each step on the same samples
    (Cao et al., FLTrust, NDSS 2021, algorithm 2): its gradient is as long as theirs.
    """
    return Context(
        round=index,
        seed=seed,
        parameters=parameters,
        public_losses=partial(_losses, model, public, seed, index),
        public_gradient=partial(_update, model, public, seed, index, parameters, local_steps, local_lr),
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
        return mean_loss(model, flat.call(model, parameters, inputs), labels)

    own = flat.trainable(model)
    # On the CPU a vectorised convolution is several times slower than one after another.
    if vectors.device.type == "cpu" and DenseChain.of(model) is None:
        return torch.stack([loss(flat.unflatten(vector, own)) for vector in vectors])
    losses: Tensor = vmap(loss)(flat.unflatten(vectors, own))
    return losses


def _update(
    model: nn.Module,
    public: Samples,
    seed: int,
    index: int,
    parameters: Callable[[], Tensor],
    local_steps: int,
    local_lr: float,
    num_samples: int,
) -> Tensor:
    inputs, labels = _batch(public, seed, index, num_samples)
    at = parameters()
    # The one worker's one batch, in each of its steps.
    inputs, labels = (t.expand(1, local_steps, *t.shape) for t in (as_precise(inputs, at.dtype), labels))
    values = flat.unflatten(at, flat.trainable(model))
    update, _ = local_update(model, inputs, labels, local_lr, parameters=values)
    return update[0]
