"""An aggregator behind pre-aggregators."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_agg.aggregators.base import Aggregator, Equivariance
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.linalg import combine
from lightning_agg.aggregators.matrix import drop_nonfinite, finite_rows
from lightning_agg.errors import SettingError, require
from lightning_agg.preaggregators.base import PreAggregator


class PreAggregated(Aggregator):
    """An aggregator of the rows that pre-aggregators make of the workers' rows, one after another.

    In YAML::

        aggregator:
          class_path: PreAggregated
          init_args:
            steps:
              - class_path: NearestNeighborMixing
                init_args: {num_byzantine: 3}
            aggregator:
              class_path: TrimmedMean
              init_args: {num_byzantine: 3}

    Non-finite rows are dropped before the first step. The public samples and the rule on the size of the pool are
    those of ``aggregator``, the last for the number of rows that the steps leave it; the memory is that of all parts.

    Cost: the sum of those of its parts.

    Breakdown: what ``aggregator`` stands of the rows that the steps make, counted back through the steps.

    Reference:
        Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
        <https://arxiv.org/abs/2302.01772>`_, AISTATS 2023; Karimireddy et al., `Byzantine-Robust Learning on
        Heterogeneous Datasets via Bucketing <https://arxiv.org/abs/2006.09365>`_, ICLR 2022.

    Args:
        steps: Pre-aggregators, in the order in which they are applied.
        aggregator: Aggregator of the rows that they leave.

    Raises:
        ValueError: If ``steps`` or ``aggregator`` are something else, or if one of them is not defined for its
            number of rows when called.

    Example:
        >>> from lightning_agg.aggregators import Mean
        >>> from lightning_agg.preaggregators import NormClipping
        >>> PreAggregated([NormClipping(2.0)], Mean())(torch.tensor([[1.0], [1.0], [1e9]]))
        tensor([1.3333])
    """

    def __init__(self, steps: list[PreAggregator], aggregator: Aggregator) -> None:
        super().__init__()
        wrong = [step for step in steps if not isinstance(step, PreAggregator)]
        require(not wrong, f"steps must be pre-aggregators, got {wrong}.")
        require(isinstance(aggregator, Aggregator), f"aggregator must be an Aggregator, got {aggregator!r}.")
        self.steps = nn.ModuleList(steps)
        self.aggregator = aggregator
        self.public_samples = aggregator.public_samples
        self.remembers_workers = aggregator.remembers_workers
        self.makes_step = aggregator.makes_step
        self.trained = aggregator.trained
        # Rows clipped to one length are ranked by how that is rounded, in a smaller matrix by other roundings.
        if not (steps and aggregator.ranks_lengths):
            self.equivariance = _equivariance({step.equivariance for step in steps}, aggregator.equivariance)

    def check(self, pool_size: int) -> None:
        """Require what the steps and the aggregator do, of the rows that reach them."""
        size = pool_size
        try:
            for step in self._steps():
                step.check(size)
                size = step.num_rows(size)
            self.aggregator.check(size)
            require(
                not self.aggregator.remembers_workers
                or (size == pool_size and all(step.keeps_workers for step in self._steps())),
                f"{type(self.aggregator).__name__} remembers workers and needs a row of each, but the steps leave"
                f" {size} rows of nobody.",
            )
        except SettingError as error:
            seen = f" for the rows that the steps leave (pool size M = {pool_size})."
            told = str(error) if size == pool_size else str(error).removesuffix(".") + seen
            raise SettingError(f"PreAggregated: {told}") from error

    def breakdown_point(self, pool_size: int) -> int | None:
        """What the aggregator stands, counted back through the steps."""
        self.check(pool_size)
        sizes = [pool_size]
        for step in self._steps():
            sizes.append(step.num_rows(sizes[-1]))
        stands = self.aggregator.breakdown_point(sizes.pop())
        for step, size in zip(reversed(self._steps()), reversed(sizes), strict=True):
            stands = None if stands is None else step.breakdown_point(size, stands)
        return stands

    def memory(self) -> dict[str, Tensor]:
        """That of the aggregator and of the steps."""
        parts = {
            "aggregator": self.aggregator,
            **{f"steps.{i}": step for i, step in enumerate(self._steps())},
        }
        return {
            f"{prefix}.{name}": buffer
            for prefix, part in parts.items()
            for name, buffer in part.memory().items()
        }

    def reset(self) -> None:
        """Forget: the next call is as the first."""
        for part in (self.aggregator, *self._steps()):
            part.reset()

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """The aggregate of the rows that the steps leave."""
        rows = gradients
        for step in self._steps():
            rows, context = self._after(step.forward(rows, context), rows, step, context)
        if len(rows) == 0:
            return gradients.new_zeros(gradients.shape[1])
        aggregate: Tensor = self.aggregator.forward(rows, context)
        return aggregate

    def shares(self, gradients: Tensor, context: Context) -> Tensor | None:
        """Shares of the rows that the steps leave, passed on to the rows that these are made of."""
        rows, mixing = gradients, torch.eye(len(gradients), device=gradients.device)
        for step in self._steps():
            weights = step.weights(rows, context)
            if weights is None:
                return None
            mixing = weights.to(mixing) @ mixing
            made = combine(weights, rows)
            mixing = mixing[finite_rows(made)]
            rows, context = self._after(made, rows, step, context)
        shares = self.aggregator.shares(rows, context) if len(rows) else mixing.new_zeros(0)
        return None if shares is None else shares.to(mixing) @ mixing

    def _steps(self) -> list[PreAggregator]:
        return [step for step in self.steps if isinstance(step, PreAggregator)]

    @staticmethod
    def _after(made: Tensor, rows: Tensor, step: PreAggregator, context: Context) -> tuple[Tensor, Context]:
        """Rows that a step made of ``rows``, without those that overflowed, and the context for them."""
        if not step.keeps_workers or len(made) != len(rows):
            context = replace(context, finite=None, workers=None, pool_size=None)
        return drop_nonfinite(made, context)


def _equivariance(steps: set[Equivariance | None], behind: Equivariance | None) -> Equivariance | None:
    """Of the whole."""
    kinds = steps | {behind}
    if len(kinds) > 1:
        kinds.discard("linear")  # which is of every other kind
    if kinds == {"rotations", "columns"} and behind == "columns":
        return "mixed"
    return kinds.pop() if len(kinds) == 1 else None
