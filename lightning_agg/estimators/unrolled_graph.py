"""The meta-gradient by one graph through the window."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.seen import Seen
from lightning_agg.estimators.base import Estimator, MetaGradient
from lightning_agg.trust_example import stacked
from lightning_agg.unroll import InnerProblem, InnerState, advance


class UnrolledGraph(Estimator):
    """Truncated backpropagation as in the textbook: one graph through the K rounds of the window.

    Its memory grows with K times the number of coordinates; :class:`Replay` gives the same without. All tasks share the
    graph: one that has diverged makes the gradients of the others NaN too (0 times NaN), which :class:`Replay` does not.

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
    ) -> MetaGradient:
        """See :meth:`Estimator.window`."""
        losses, examples = [], []
        with torch.enable_grad():
            now, total = state, weights.new_zeros(len(state.episodes))
            for k in range(len(weights) + 1):
                received = [
                    problem.differentiable_round(theta, episode, step, self.second_order)
                    for theta, episode, step in zip(now.parameters, now.episodes, now.steps, strict=True)
                ]
                values = torch.stack([item.honest_loss for item in received])
                losses.append(values.detach())
                if k > 0:
                    counted = values.isfinite() & (values <= loss_cap)
                    total = total + weights[k - 1] * torch.where(counted, values, 0.0)
                if k == len(weights):
                    break
                now, _, _, seen = advance(aggregator, received, now, self.second_order)
                examples.append(seen)
            gradients = [_gradients(loss, aggregator.network) for loss in total]
        after = replace(
            now,
            parameters=now.parameters.detach(),
            memory=now.memory.detach(),
            seen=tuple(Seen(*(part.detach() for part in seen)) for seen in now.seen),
        )
        by_parameter = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
        return MetaGradient(by_parameter, torch.stack(losses), after, stacked(examples))


def _gradients(loss: Tensor, network: nn.Module) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        loss, list(network.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
