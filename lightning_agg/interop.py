"""Our rules in other libraries: as functions on arrays (ByzFL), as aggregators and weightings (TorchJD).

A rule of theirs becomes one of ours by :class:`~lightning_agg.aggregators.External`. Neither library is needed until a
function that names it is called.

>>> import numpy as np
>>> from lightning_agg.aggregators import CoordinateMedian
>>> for_arrays(CoordinateMedian())(np.array([[1.0, 2.0], [3.0, 4.0], [1e9, -1e9]]))
array([3., 2.])
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.errors import require


def for_arrays(aggregator: Aggregator) -> Callable[[Any], Any]:
    """``aggregator`` as ByzFL calls a rule: on an array, a tensor, or a list of either -> of the same kind.

    For instance as ``agg`` of ``byzfl.Optimal_ALittleIsEnough``. The type of the numbers is kept: float64 stays float64.
    """

    def rule(vectors: Any) -> Any:
        """``(M, d)`` -> ``(d,)``."""
        if isinstance(vectors, list):
            vectors = (torch.stack if isinstance(vectors[0], Tensor) else np.stack)(vectors)
        if isinstance(vectors, Tensor):
            return aggregator(vectors)
        array = np.ascontiguousarray(
            vectors
        )  # torch knows neither steps backwards nor foreign orders of bytes
        return aggregator(torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))).numpy()

    return rule


def for_torchjd(aggregator: Aggregator) -> Any:
    """``aggregator`` as a ``torchjd.aggregation.Aggregator``, for instance of ``torchjd.autojac.jac_to_grad``.

    Raises:
        ModuleNotFoundError: If TorchJD is not installed.
    """
    from torchjd.aggregation import Aggregator as TheirAggregator

    class Ours(TheirAggregator):
        """One of our rules as TorchJD calls one."""

        def __init__(self) -> None:
            super().__init__()
            self.aggregator = aggregator

        def forward(self, matrix: Tensor, /) -> Tensor:
            """``(M, d)`` -> ``(d,)``."""
            return self.aggregator(matrix)

    return Ours()


def weighting_for_torchjd(aggregator: Aggregator) -> Any:
    """The influence of the rows in ``aggregator`` as a ``torchjd.aggregation.Weighting`` of the matrix.

    With TorchJD's ``WeightedAggregator`` around it, a rule without memory that combines rows aggregates finite ones as it does
    here, with weights of single precision.

    Raises:
        ModuleNotFoundError: If TorchJD is not installed.
        SettingError: In the call, if the rule defines no influence or has a memory, or a row is not finite: no weight takes it out.
    """
    from torchjd.aggregation import Weighting

    class Influence(Weighting[Tensor]):
        """How much weight one of our rules gives to each row."""

        def __init__(self) -> None:
            super().__init__()
            self.aggregator = aggregator

        def forward(self, matrix: Tensor, /) -> Tensor:
            """``(M, d)`` -> ``(M,)``."""
            name = type(self.aggregator).__name__
            require(
                not self.aggregator.memory(), f"weighting_for_torchjd: {name} has a memory; see for_torchjd."
            )
            require(
                bool(matrix.isfinite().all()), "weighting_for_torchjd: rows must be finite; see for_torchjd."
            )
            shares = self.aggregator.influence(matrix)
            require(shares is not None, f"weighting_for_torchjd: {name} defines no influence of the rows.")
            assert shares is not None
            return shares.to(matrix.dtype)

    return Influence()
