"""Base class of the estimators of the meta-gradient."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.trust_example import TrustExample
from lightning_agg.unroll import InnerProblem, InnerState


class MetaGradient(NamedTuple):
    """What a window of T tasks and K rounds gives.

    Attributes:
        gradients: For each of the network's ``parameters()``, the derivative of each task's meta-loss, ``(T, *shape)``.
        losses: Before each round and after the last, ``(K + 1, T)``.
        after: The state after the window, detached.
        examples: What was seen of the workers of each task in the K rounds; empty where no judge has read of them.
    """

    gradients: list[Tensor]
    losses: Tensor
    after: InnerState
    examples: tuple[TrustExample, ...]


class Estimator(ABC):
    """How the derivative of the meta-loss with respect to the network's weights is found."""

    @abstractmethod
    def window(
        self,
        problem: InnerProblem,
        aggregator: Recurrent,
        state: InnerState,
        weights: Tensor,
        loss_cap: float,
        key: tuple[int, int],
    ) -> MetaGradient:
        """Advance all tasks by a window; called once a meta-step.

        Args:
            problem: What is trained.
            aggregator: The aggregator that is trained.
            state: Where the tasks are.
            weights: ``(K,)`` weights w of the losses after each of the K rounds; their weighted sum is the meta-loss of a
                task.
            loss_cap: A loss above it, or not finite, counts as constant.
            key: (seed, meta-step), for estimators that draw.
        """
