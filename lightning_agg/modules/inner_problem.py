"""The pool's training as the problem that an aggregator is trained on."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn import functional as F

from lightning_agg import flat
from lightning_agg.aggregators.context import Context
from lightning_agg.data.pool import RoundBatch
from lightning_agg.data.samples import as_precise
from lightning_agg.gradients import worker_gradients
from lightning_agg.unroll import InnerProblem, Round

if TYPE_CHECKING:
    from lightning_agg.modules.meta_learner import MetaLearner

STRIDE = 1 << 20
"""Rounds set aside for an episode: its batches, attacks and noise are keyed by ``episode * STRIDE + step``."""


LEAST_LOSS = 1e-12
"""A loss at or below it has no logarithm to be descended: one honest worker with one label comes to 0 in float32."""


class PoolProblem(InnerProblem):
    """Rounds of the pool of a :class:`MetaLearner`: its workers, callbacks and public data.

    Args:
        learner: Whose pool it is.
    """

    def __init__(self, learner: "MetaLearner") -> None:
        self.learner = learner

    def round(self, parameters: Tensor, episode: int, step: int) -> Round:
        """See :meth:`InnerProblem.round`."""
        model, batch = self.learner.model, self._batch(episode, step)
        values = flat.unflatten(parameters, flat.trainable(model))
        weights = None if batch.weights is None else batch.weights[:, 0]
        gradients, losses = worker_gradients(
            model, batch.inputs[:, 0], batch.targets[:, 0], parameters=values, weights=weights
        )
        return self._sent(parameters, batch, gradients, losses, self.learner.scaling(episode))

    def differentiable_round(self, parameters: Tensor, episode: int, step: int, second_order: bool) -> Round:
        """See :meth:`InnerProblem.differentiable_round`."""
        model, batch = self.learner.model, self._batch(episode, step)
        own = flat.trainable(model)

        weights = (
            torch.ones_like(batch.targets, dtype=parameters.dtype) if batch.weights is None else batch.weights
        )

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            losses = F.cross_entropy(flat.call(model, values, x), y, reduction="none")
            return (losses * w).sum() / w.sum()

        gradients, losses = vmap(grad_and_value(loss), (None, 0, 0, 0))(
            flat.unflatten(parameters, own), batch.inputs[:, 0], batch.targets[:, 0], weights[:, 0]
        )
        rows = flat.flatten_rows(gradients)
        rows = rows if second_order else rows.detach()
        return self._sent(parameters, batch, rows, losses, self.learner.scaling(episode))

    def _batch(self, episode: int, step: int) -> RoundBatch:
        learner = self.learner
        index, workers = episode * STRIDE + step, tuple(range(learner.episode_size(episode)))
        inputs, targets, weights = learner.pool(episode).batch(workers, index)
        inputs = as_precise(inputs, next(learner.model.parameters()).dtype)
        weights = None if weights is None else weights[:, None]
        batch = RoundBatch(index, workers, workers, inputs[:, None], targets[:, None], weights)
        for callback in learner.pool_callbacks():
            callback.on_episode(learner.trainer, learner, episode)
        return learner.pass_batch(batch)

    def _sent(
        self,
        parameters: Tensor,
        batch: RoundBatch,
        gradients: Tensor,
        losses: Tensor,
        scaling: Tensor | float,
    ) -> Round:
        learner = self.learner
        byzantine = learner.byzantine()
        honest = [worker for worker in batch.workers if worker not in byzantine]
        sent = gradients
        for hook in ("on_worker_gradients", "on_byzantine_gradients"):
            sent = learner.pass_rows(hook, sent, batch)
        context = learner.server_context(batch.round, lambda: parameters.detach())
        honest_gradient, honest_loss = gradients[honest].detach().mean(0), losses[honest].mean()
        if learner.log_loss:
            honest_gradient, honest_loss = of_logarithm(honest_gradient, honest_loss)
        if isinstance(scaling, Tensor):
            sent, context = sent * scaling, _scaled(context, scaling)
        attackers = learner.byzantine(batch.round)
        is_honest = torch.tensor([worker not in attackers for worker in range(learner.pool_size)])
        if len(batch.workers) < learner.pool_size:
            workers = torch.tensor(batch.workers, device=sent.device)
            context = replace(context, pool_size=learner.pool_size, workers=workers)
        return Round(sent, is_honest.to(sent.device), honest_gradient, honest_loss, context, scaling)


def _scaled(context: Context, scaling: Tensor) -> Context:
    """What a server knows that sees x instead of θ = scaling * x."""
    parameters, losses, gradient = context.parameters, context.public_losses, context.public_gradient
    assert parameters is not None
    assert losses is not None
    assert gradient is not None
    return replace(
        context,
        parameters=lambda: parameters() / scaling,
        public_losses=lambda vectors, num_samples: losses(vectors * scaling, num_samples),
        public_gradient=lambda num_samples: gradient(num_samples) * scaling,
    )


def of_logarithm(gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and value of the logarithm of a loss, which counts as constant where it is next to 0.

    Example:
        >>> of_logarithm(torch.tensor([2.0, 4.0]), torch.tensor(4.0))
        (tensor([0.5000, 1.0000]), tensor(1.3863))
        >>> of_logarithm(torch.tensor([2.0, 4.0]), torch.tensor(0.0))
        (tensor([0., 0.]), tensor(-27.6310))
    """
    least = loss.detach().clamp_min(LEAST_LOSS)
    return torch.where(loss > LEAST_LOSS, gradient / least, 0.0), loss.clamp_min(LEAST_LOSS).log()


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, parameters: Tensor, inputs: Tensor, labels: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of ``model`` at ``parameters`` ``(d,)``, ``batch_size`` samples at a time."""
    values = flat.unflatten(parameters, flat.trainable(model))
    logits = torch.cat([flat.call(model, values, part) for part in torch.split(inputs, batch_size)])
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
