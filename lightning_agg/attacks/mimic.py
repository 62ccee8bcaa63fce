"""One honest worker, many times."""

from typing import Any

import torch
from torch import Tensor

from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.errors import require
from lightning_agg.precision import widened


class Mimic(Attack):
    r"""All attackers send the gradient of one honest worker, which so counts f + 1 times.

    No row is an outlier; the harm comes from heterogeneous data. The worker is given, or found in the first
    ``warmup`` rounds of the attack: there :math:`z` follows the direction in which the honest gradients vary
    most, by one step of power iteration a round, and the attackers send the honest gradient that goes farthest
    along it. The worker of the last of these rounds is copied from then on.

    Cost: :math:`O(d)`; in the warm-up :math:`O(H d)`.

    Reference:
        Karimireddy et al., `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
        <https://arxiv.org/abs/2006.09365>`_, ICLR 2022, Section 3; the warm-up is that of the authors' code:
        :math:`z \propto t z + c / \lVert c \rVert`, where :math:`c = \sum_i \langle x_i - \mu, z \rangle (x_i -
        \mu)` and :math:`\mu` is the mean of all honest gradients so far. There :math:`z` begins at random, here at
        the honest gradient farthest from the mean.
        Without warm-up as in ByzFL and FLPoison.

    Args:
        worker: Pool-wide index of the worker that is copied; the honest one of lowest index when ``None``. In
            a round in which it is Byzantine itself, or absent, the next honest one takes its place: the
            lowest honest index above ``worker``, or else the lowest of all.
        warmup: Rounds in which the worker is looked for; 0 for none.

    Raises:
        SettingError: If ``worker`` or ``warmup`` is negative, or both are given; before training, if ``worker``
            is not below ``pool_size``.

    Example:
        >>> honest, own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(1, 2)
        >>> Mimic()(honest, own)
        tensor([[1., 2.]])
        >>> Mimic(worker=1)(honest, own, AttackContext(honest=(0, 2), byzantine=(1,)))
        tensor([[3., 4.]])
    """

    rounds: int
    found: int | None
    mean: Tensor
    direction: Tensor

    def __init__(self, worker: int | None = None, warmup: int = 0) -> None:
        require(worker is None or worker >= 0, f"Mimic.worker must be at least 0, got {worker}.")
        require(warmup >= 0, f"Mimic.warmup must be at least 0, got {warmup}.")
        require(
            worker is None or warmup == 0,
            f"Mimic.worker must be null where Mimic.warmup finds it (worker = {worker}, warmup = {warmup}).",
        )
        self.worker = worker
        self.warmup = warmup
        self.remembers = warmup > 0
        self.spreads_nonfinite = not self.remembers
        self.load_state_dict({})

    def forward(self, honest: Tensor, own: Tensor, context: AttackContext) -> Tensor:
        """The row of the copied worker, the same for all."""
        if self.rounds >= self.warmup:
            return honest[context.honest_row(self.worker if self.found is None else self.found)]
        self._look(honest)
        reach = (honest.to(self.direction) @ self.direction).nan_to_num(-torch.inf, -torch.inf)
        row = int(reach.argmax())
        self.found = context.honest[row]
        if self.rounds == self.warmup:
            self.mean = self.direction = honest.new_zeros(0)
        return honest[row]

    def check(self, pool_size: int, num_byzantine: int) -> None:
        """The copied worker must be in the pool."""
        require(
            self.worker is None or self.worker < pool_size,
            f"Mimic.worker must be below data.pool_size = {pool_size}, got {self.worker}.",
        )

    def state_dict(self) -> dict[str, Any]:
        """How far the warm-up is, what it has found; nothing without warm-up."""
        if not self.remembers:
            return {}
        return {
            "rounds": self.rounds,
            "found": self.found,
            "mean": self.mean,
            "direction": self.direction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; begin the warm-up where there is no state."""
        self.rounds = state.get("rounds", 0)
        self.found = state.get("found")
        self.mean = state.get("mean", torch.zeros(0))
        self.direction = state.get("direction", torch.zeros(0))

    def _look(self, honest: Tensor) -> None:
        rows = widened(honest)
        if self.rounds == 0:
            self.mean = self.direction = rows.new_zeros(rows.shape[1])
        self.mean, self.direction = self.mean.to(rows), self.direction.to(rows)
        weight = 1 / (1 + self.rounds)
        mean = torch.lerp(self.mean, rows.mean(dim=0), weight)
        centred = rows - mean
        # The direction does not depend on their scale, whose sixth power float32 would have to hold.
        centred /= centred.abs().max().clamp(min=torch.finfo(centred.dtype).tiny)
        start = self.direction if self.direction.any() else centred[centred.norm(dim=1).argmax()]
        pull = (centred @ start) @ centred
        length = pull.norm()
        if length < torch.inf:  # else it overflows
            self.mean = mean
        if 0 < length < torch.inf:
            direction = (1 - weight) * self.direction + weight * pull / length
            self.direction = direction / direction.norm()
        self.rounds += 1
