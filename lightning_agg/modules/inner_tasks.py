"""Where the trainings that a ``MetaLearner`` trains on stand."""

import torch
from torch import Tensor, nn

from lightning_agg.aggregators.seen import Seen
from lightning_agg.unroll import InnerState


class InnerTasks(nn.Module):
    """Trainings that go on side by side, in buffers, so that a checkpoint holds them in the middle of an episode.

    Args:
        num_tasks: Their number T.
        theta: ``(d,)`` parameters of a model like theirs.
        state_size: Numbers that the recurrent network keeps for a coordinate.
        seen: What its features carry before the first round of an episode.
    """

    theta: Tensor
    memory: Tensor
    episodes: Tensor
    steps: Tensor

    def __init__(self, num_tasks: int, theta: Tensor, state_size: int, seen: Seen) -> None:
        super().__init__()
        self.register_buffer("theta", torch.zeros(num_tasks, len(theta), dtype=theta.dtype))
        self.register_buffer("memory", torch.zeros(state_size, num_tasks * len(theta), dtype=theta.dtype))
        for name, value in seen._asdict().items():
            self.register_buffer(f"seen_{name}", torch.stack([value] * num_tasks))
        self.register_buffer("episodes", torch.full((num_tasks,), -1))
        self.register_buffer("steps", torch.zeros(num_tasks, dtype=torch.long))

    @property
    def size(self) -> int:
        """Parameters d of a model."""
        return self.theta.shape[1]

    @property
    def state(self) -> InnerState:
        """Where they all are."""
        return InnerState(
            self.theta,
            self.memory,
            tuple(map(Seen, *(getattr(self, f"seen_{name}") for name in Seen._fields))),
            tuple(self.episodes.tolist()),
            tuple(self.steps.tolist()),
        )

    def carry(self, state: InnerState) -> None:
        """Go on from there; the episodes stay."""
        self.theta, self.memory = state.parameters, state.memory
        for name, values in zip(Seen._fields, zip(*state.seen, strict=True), strict=True):
            setattr(self, f"seen_{name}", torch.stack(values))
        self.steps = torch.tensor(state.steps)

    def begin(self, task: int, episode: int, theta: Tensor) -> None:
        """Let a task begin an episode, from fresh parameters and with nothing remembered."""
        self.episodes[task], self.steps[task] = episode, 0
        self.theta = self.theta.clone()
        self.theta[task] = theta.to(self.theta)
        self.memory = self.memory.clone()
        self.memory[:, task * self.size : (task + 1) * self.size] = 0
        for name in Seen._fields:
            value = getattr(self, f"seen_{name}").clone()
            value[task] = 0
            setattr(self, f"seen_{name}", value)
