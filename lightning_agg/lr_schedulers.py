"""Learning rates that torch has no schedule for."""

from bisect import bisect_right
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_agg.errors import require


class PiecewiseConstantLR(LRScheduler):
    """The initial learning rate times ``factors[i]`` from round ``milestones[i]`` on.

    The factors are relative to the initial rate, so that "a half, a tenth, a twentieth" can be said as it stands;
    ``torch.optim.lr_scheduler.MultiStepLR`` multiplies by one factor again and again.

    Args:
        optimizer: Whose learning rate it is.
        milestones: Rounds, ascending, the first above 0.
        factors: As many factors, at least 0.
        last_epoch: As in every schedule of torch.

    Raises:
        SettingError: If the milestones do not ascend, or the factors are negative or of another number.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> schedule, rates = PiecewiseConstantLR(optimizer, [1, 3], [0.5, 0.25]), []
        >>> for _ in range(4):
        ...     rates.append(schedule.get_last_lr()[0])
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.8, 0.4, 0.4, 0.2]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: list[int], factors: list[float], last_epoch: int = -1
    ) -> None:
        require(
            all(a < b for a, b in zip([0, *milestones], milestones, strict=False)),
            f"lr_scheduler.milestones must ascend and begin above 0, got {milestones}.",
        )
        require(
            len(factors) == len(milestones) and all(factor >= 0 for factor in factors),
            "lr_scheduler.factors must be at least 0 and as many as lr_scheduler.milestones"
            f" (factors = {factors}, milestones = {milestones}).",
        )
        self.milestones = milestones
        self.factors = factors
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group of parameters in this round."""
        factor = [1.0, *self.factors][bisect_right(self.milestones, self.last_epoch)]
        return [factor * float(rate) for rate in self.base_lrs]
