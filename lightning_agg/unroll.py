"""The training of a model by a learned aggregator, as a pure function of its state.

Several tasks (trainings of the same architecture, at different points of their episodes) run side by side: the
recurrent network sees all their coordinates at once, ``T * d`` columns.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.recurrent_window import Window
from lightning_agg.aggregators.seen import Seen
from lightning_agg.precision import full_precision
from lightning_agg.trust_example import TrustExample, example_of_round, stacked


@dataclass(frozen=True)
class InnerState:
    """Where T tasks are in their episodes.

    Args:
        parameters: θ of each task, ``(T, d)``.
        memory: States of the recurrent network, ``(state_size, T * d)``.
        seen: What the aggregator's features carry, of each task.
        episodes: Episode of each task.
        steps: Rounds done in it.
    """

    parameters: Tensor
    memory: Tensor
    seen: tuple[Seen, ...]
    episodes: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Round:
    """One round of one task.

    Args:
        gradients: ``(m, d)`` rows that the server receives, with respect to x where θ = scaling * x.
        honest: ``(M,)`` who of all workers is honest in this round.
        honest_gradient: ``(d,)`` gradient of the honest workers' mean loss, or of its logarithm.
        honest_loss: That loss, or its logarithm.
        context: What the server knows, of x.
        scaling: ``(d,)`` factor of the update of x, 1 unless the task is scaled.
    """

    gradients: Tensor
    honest: Tensor
    honest_gradient: Tensor
    honest_loss: Tensor
    context: Context
    scaling: Tensor | float = 1.0


class InnerProblem(ABC):
    """What is trained in an episode: gradients and losses as a function of (parameters, episode, step)."""

    @abstractmethod
    def round(self, parameters: Tensor, episode: int, step: int) -> Round:
        """Round ``step`` of ``episode`` at ``parameters`` ``(d,)``; nothing of it carries a graph."""

    @abstractmethod
    def differentiable_round(self, parameters: Tensor, episode: int, step: int, second_order: bool) -> Round:
        """The same with graphs: ``honest_loss`` depends on ``parameters``, and ``gradients`` too if ``second_order``."""


@dataclass(frozen=True)
class Trajectory:
    """K rounds of all tasks, with what a replay of the network needs for c of the T * d columns.

    Args:
        inputs: ``(n, c)`` of each of the K rounds.
        factors: ``(K, c)``: update = factor * network output.
        memory: ``(state_size, c)`` before the first round.
        cotangents: ``(K, c)``: derivative of the meta-loss with respect to each update.
        losses: ``(K + 1, T)``: honest loss before each round and after the last.
        after: State after the last round.
        examples: What was seen of the workers of each task, of K rounds; empty where no judge has read of them.
    """

    inputs: tuple[Tensor, ...]
    factors: Tensor
    memory: Tensor
    cotangents: Tensor
    losses: Tensor
    after: InnerState
    examples: tuple[TrustExample, ...]


class Advance(NamedTuple):
    """One round of T tasks.

    Attributes:
        after: State after it.
        inputs: Those of the network, ``(n, T * d)``.
        factors: Those of its outputs, ``(T * d,)``.
        examples: What was seen of the workers of each task; empty where no judge has read of them.
    """

    after: InnerState
    inputs: Tensor
    factors: Tensor
    examples: tuple[TrustExample, ...]


def round_features(
    aggregator: Recurrent, received: list[Round], seen: tuple[Seen, ...], steps: tuple[int, ...]
) -> tuple[Tensor, Tensor, tuple[Seen, ...], tuple[TrustExample, ...]]:
    """Inputs ``(n, T * d)``, factors ``(T * d,)``, what is carried on and what was seen of the workers, of a round of T tasks."""
    parts, examples = [], []
    for task, (item, step) in enumerate(zip(received, steps, strict=True)):
        rows, context = aggregator.finite(item.gradients, item.context)
        if len(rows) > 0:
            part = aggregator.features(rows, context, seen[task], step)
        else:  # a diverged task stays where it is until its episode ends
            part = aggregator.features(torch.zeros_like(item.gradients), item.context, seen[task], step)
            part = replace(part, scale=torch.zeros_like(part.scale), seen=seen[task])
            if part.judged is not None:
                absent = part.judged._replace(
                    counts=torch.zeros_like(part.judged.counts), cut=part.judged.cut[:0]
                )
                part = replace(part, judged=absent)
        parts.append(part)
        if part.judged is not None:
            examples.append(example_of_round(rows, item.honest, part.judged))
    return (
        torch.cat([part.inputs for part in parts], dim=1),
        torch.cat(
            [
                aggregator.step_size(step) * (part.scale * item.scaling)
                for part, item, step in zip(parts, received, steps, strict=True)
            ]
        ),
        tuple(part.seen for part in parts),
        tuple(examples),
    )


def advance(
    aggregator: Recurrent,
    received: list[Round],
    now: InnerState,
    second_order: bool = False,
    workspace: Window | None = None,
) -> Advance:
    """One round of T tasks.

    An update that is not finite is none. Without a graph the state's ``memory`` is overwritten.

    Args:
        aggregator: Its network is applied, its own memory is not touched.
        received: What the server of each task has received.
        now: Where the tasks are.
        second_order: Whether inputs and factors keep their graphs.
        workspace: The network's, for rounds without a graph.
    """
    with full_precision(now.parameters):
        with torch.set_grad_enabled(second_order):
            inputs, factors, seen, examples = round_features(aggregator, received, now.seen, now.steps)
        if torch.is_grad_enabled():
            outputs, memory = aggregator.network(inputs, now.memory)
        else:
            outputs, memory = aggregator.network.step_(inputs, now.memory, workspace), now.memory
        if aggregator.features.line_search:
            factors, seen = _searched(aggregator, received, now, factors, outputs, seen)
    moves = torch.nan_to_num(factors * outputs, 0.0, 0.0, 0.0)
    after = replace(
        now,
        parameters=now.parameters + moves.view_as(now.parameters),
        memory=memory,
        seen=seen,
        steps=tuple(step + 1 for step in now.steps),
    )
    return Advance(after, inputs, factors, examples)


def _searched(
    aggregator: Recurrent,
    received: list[Round],
    now: InnerState,
    factors: Tensor,
    outputs: Tensor,
    seen: tuple[Seen, ...],
) -> tuple[Tensor, tuple[Seen, ...]]:
    """Factors after the line search of each task, and what is carried on."""
    with torch.no_grad():
        moves = (factors * outputs).view_as(now.parameters)
        found = [
            aggregator.shortened(item.context, move / item.scaling, task, step)
            for item, move, task, step in zip(received, moves, seen, now.steps, strict=True)
        ]
    shortening = moves.new_tensor([[factor] for factor, _ in found]).expand_as(moves).flatten()
    return shortening * factors, tuple(task for _, task in found)


@torch.no_grad()
def rollout(
    problem: InnerProblem,
    aggregator: Recurrent,
    state: InnerState,
    length: int,
    weights: Tensor,
    loss_cap: float,
    columns: Tensor,
) -> Trajectory:
    """``length`` rounds without a graph, and the cotangents of their updates.

    With F the honest loss, the meta-loss is the sum of w_t F(θ_t) over the rounds t = 1..K of the window, so that of
    update s the cotangent is the sum of w_t ∇F(θ_t) over t > s: exact as long as the inputs of the network count as
    constants (the dashed edges of Ji et al., IJCAI 2019, Figure 2).

    Args:
        problem: What is trained.
        aggregator: Its network is applied, its own memory is not touched.
        state: Where the tasks are.
        length: Rounds K.
        weights: w_1..w_K, ``(K,)``.
        loss_cap: A loss above it, or not finite, counts as constant.
        columns: Those that will be replayed, ``(c,)``: nothing is stored of the others.
    """
    inputs, factors, gradients, losses, examples = [], [], [], [], []
    now = replace(state, memory=state.memory.clone())
    workspace = aggregator.network.workspace(state.memory.shape[1])
    for k in range(length + 1):
        received = _receive(problem, now)
        gradients.append(_columns(torch.cat([item.honest_gradient for item in received]), columns))
        losses.append(torch.stack([item.honest_loss for item in received]))
        if k == length:
            break
        now, x, factor, seen = advance(aggregator, received, now, workspace=workspace)
        inputs.append(_columns(x, columns))
        factors.append(_columns(factor, columns))
        examples.append(seen)
    values = torch.stack(losses)
    counted = values[1:].isfinite() & (values[1:] <= loss_cap)
    task = columns // state.parameters.shape[1]
    later = torch.stack(gradients[1:]).nan_to_num(0.0, 0.0, 0.0) * (weights[:, None] * counted)[:, task]
    cotangents = later.flip(0).cumsum(0).flip(0)
    memory = _columns(state.memory, columns)
    return Trajectory(tuple(inputs), torch.stack(factors), memory, cotangents, values, now, stacked(examples))


def _columns(x: Tensor, chosen: Tensor) -> Tensor:
    return x if len(chosen) == x.shape[-1] else x[..., chosen]


def _receive(problem: InnerProblem, state: InnerState) -> list[Round]:
    return [
        problem.round(theta, episode, step)
        for theta, episode, step in zip(state.parameters, state.episodes, state.steps, strict=True)
    ]
