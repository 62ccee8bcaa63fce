"""The meta-gradient by one graph through the window."""

from dataclasses import replace

import torch
from torch import Tensor

from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.worker_features import Seen
from lightning_agg.estimators.base import Estimator
from lightning_agg.unroll import InnerProblem, InnerState, round_features


class UnrolledGraph(Estimator):
    """Truncated backpropagation as in the textbook: one graph through the K rounds of the window.

    Its memory grows with K times the number of coordinates; :class:`Replay` gives the same without.

    Args:
        second_order: Whether the workers' gradients, and what is made of them, depend on the parameters too.
    """

    def __init__(self, second_order: bool = False) -> None:
        self.second_order = second_order

    def window(
        self,
        problem: InnerProblem,
        aggregator: Recurrent,
        state: InnerState,
        weights: Tensor,
        loss_cap: float,
        key: tuple[int, int],
    ) -> tuple[InnerState, Tensor]:
        """See :meth:`Estimator.window`."""
        losses = []
        with torch.enable_grad():
            now, total = state, weights.new_zeros(())
            for k in range(len(weights) + 1):
                received = [
                    problem.differentiable_round(theta, episode, step, self.second_order)
                    for theta, episode, step in zip(now.parameters, now.episodes, now.steps, strict=True)
                ]
                values = torch.stack([item.honest_loss for item in received])
                losses.append(values.detach())
                if k > 0:
                    counted = values.isfinite() & (values <= loss_cap)
                    total = total + weights[k - 1] * torch.where(counted, values, 0.0).mean()
                if k == len(weights):
                    break
                with torch.set_grad_enabled(self.second_order):
                    x, factor, seen = round_features(aggregator, received, now.seen, now.steps)
                output, memory = aggregator.network(x, now.memory)
                now = replace(
                    now,
                    parameters=now.parameters + (factor * output).view_as(now.parameters),
                    memory=memory,
                    seen=seen,
                    steps=tuple(step + 1 for step in now.steps),
                )
            torch.autograd.backward(total)
        after = replace(
            now,
            parameters=now.parameters.detach(),
            memory=now.memory.detach(),
            seen=tuple(Seen(*(part.detach() for part in seen)) for seen in now.seen),
        )
        return after, torch.stack(losses)
