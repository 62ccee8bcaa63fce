"""One whole episode, played for validation: the learned aggregator and the baselines it is compared with."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_agg import flat
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.data.samples import Samples, as_precise
from lightning_agg.modules.factories import OptimizerFactory
from lightning_agg.modules.inner_problem import PoolProblem, evaluate
from lightning_agg.unroll import InnerState, Round, advance

POINTS = 20
"""About as many points has a curve."""

Server = Callable[[Tensor, Round, int], Tensor]
"""Parameters ``(d,)``, what came in, index of the round in its episode -> parameters after it."""


class Curve(NamedTuple):
    """A model's loss along an episode, on data that it is not trained on.

    Attributes:
        rounds: Rounds done at each point, ``(n,)``.
        losses: The loss there, ``(n,)``.
        loss: The loss after the last round.
        accuracy: The accuracy after the last round.
    """

    rounds: Tensor
    losses: Tensor
    loss: Tensor
    accuracy: Tensor


class Episode(NamedTuple):
    """Curves of one episode: same initial parameters, batches, attack and attackers.

    Attributes:
        learned: That of the aggregator that is trained.
        baselines: Those beside it, by name.
    """

    learned: Curve
    baselines: dict[str, Curve]


@dataclass(frozen=True)
class Baseline:
    """What a learned aggregator is compared with, as ``ParameterServer`` would run it.

    Args:
        aggregator: The aggregator.
        optimizer: The server's optimizer.
    """

    aggregator: Aggregator
    optimizer: OptimizerFactory

    def server(self, model: nn.Module, parameters: Tensor) -> Server:
        """Its server at the beginning of an episode."""
        aggregator = copy.deepcopy(self.aggregator).to(parameters.device)
        tensors = {
            name: nn.Parameter(p.clone())
            for name, p in flat.unflatten(parameters, flat.trainable(model)).items()
        }
        optimizer = self.optimizer(tensors.values())

        def descend(parameters: Tensor, received: Round, step: int) -> Tensor:
            context = replace(received.context, lr=float(optimizer.param_groups[0]["lr"]))
            flat.set_gradients(tensors, aggregator(received.gradients, context))
            optimizer.step()
            return flat.flatten(tensors)

        return descend


class LearnedServer:
    """The server of an aggregator that is being trained, at the beginning of an episode.

    Args:
        aggregator: Its network is applied, its own memory is not touched.
        pool_size: Number M of workers.
        parameters: Initial parameters ``(d,)``.
    """

    def __init__(self, aggregator: Recurrent, pool_size: int, parameters: Tensor) -> None:
        self.aggregator = aggregator
        memory = parameters.new_zeros(aggregator.network.state_size, len(parameters))
        seen = aggregator.features.unseen(pool_size, parameters)
        self.state = InnerState(parameters[None], memory, (seen,), (0,), (0,))

    def __call__(self, parameters: Tensor, received: Round, step: int) -> Tensor:
        """One round; ``parameters`` are those after the last."""
        self.state = advance(self.aggregator, [received], self.state).after
        return self.state.parameters[0]


def play(
    problem: PoolProblem,
    server: Server,
    parameters: Tensor,
    episode: int,
    horizon: int,
    data: Samples,
) -> Curve:
    """``horizon`` rounds of ``episode`` from its initial ``parameters``, measured on ``data``."""
    model, batch_size = problem.learner.model, problem.learner.data.eval_batch_size
    inputs, labels = data.read(torch.arange(len(data), device=data.labels.device))
    inputs = as_precise(inputs, parameters.dtype)
    marks = range(0, horizon + 1, max(1, horizon // POINTS))[1:]
    losses = []
    for step in range(horizon):
        parameters = server(parameters, problem.round(parameters, episode, step), step)
        if step + 1 in marks:
            losses.append(evaluate(model, parameters, inputs, labels, batch_size)[0])
    loss, accuracy = evaluate(model, parameters, inputs, labels, batch_size)
    return Curve(torch.tensor(marks), torch.stack(losses), loss, accuracy)
