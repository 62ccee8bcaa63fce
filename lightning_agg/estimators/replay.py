"""The meta-gradient by replaying the network alone."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.recurrent_window import Window
from lightning_agg.errors import require
from lightning_agg.estimators.base import Estimator, MetaGradient
from lightning_agg.precision import full_precision
from lightning_agg.unroll import InnerProblem, InnerState, rollout


class Replay(Estimator):
    """Rolls out without a graph, then replays the recurrent network on the stored inputs, a chunk of coordinates at a time.

    Equal to backpropagation through the whole window with the dashed edges dropped (Ji et al., IJCAI 2019, Figure 2;
    ``second_derivatives=False`` of Andrychowicz et al., NeurIPS 2016), since what enters the network counts as constant
    there. The model is never differentiated twice, and memory beside the stored inputs is that of one chunk.

    Args:
        num_coordinates: Replay only so many coordinates, drawn anew in each window, and scale up: unbiased, cheaper. All
            when null.
        chunk_size: Coordinates replayed at once.
    """

    def __init__(self, num_coordinates: int | None = None, chunk_size: int = 1000) -> None:
        require(
            num_coordinates is None or num_coordinates >= 1,
            f"estimator.num_coordinates must be at least 1, got {num_coordinates}.",
        )
        require(chunk_size >= 1, f"estimator.chunk_size must be at least 1, got {chunk_size}.")
        self.num_coordinates = num_coordinates
        self.chunk_size = chunk_size

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
        size = state.parameters.numel()
        count = min(self.num_coordinates or size, size)
        chosen = torch.arange(size, device=state.parameters.device)
        if count < size:
            rng = seeding.generator(key[0], "replayed coordinates", step=key[1])
            chosen = torch.from_numpy(np.sort(rng.choice(size, count, replace=False))).to(chosen.device)
        trajectory = rollout(problem, aggregator, state, len(weights), weights, loss_cap, chosen)
        pull = trajectory.factors * trajectory.cotangents * (size / count)
        window = Window(aggregator.network, len(weights), min(self.chunk_size, count))
        tasks, width = state.parameters.shape
        edges = torch.searchsorted(chosen, width * torch.arange(tasks + 1, device=chosen.device)).tolist()
        gradients = []
        with full_precision(pull):
            for start, end in pairwise(edges):
                for first in range(start, end, self.chunk_size):
                    columns = slice(first, min(first + self.chunk_size, end))
                    window.forward([x[:, columns] for x in trajectory.inputs], trajectory.memory[:, columns])
                    window.backward(pull[:, columns])
                gradients.append(window.gradients())
        by_parameter = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
        return MetaGradient(by_parameter, trajectory.losses, trajectory.after, trajectory.examples)
