"""The matrix of gradients: what it must be, and which of its rows are usable."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.errors import SettingError


def require_matrix(gradients: object) -> None:
    """Raise :class:`SettingError` unless ``gradients`` is a floating matrix with rows and columns."""
    if not isinstance(gradients, Tensor):
        raise SettingError(f"gradients must be a torch.Tensor (M, d), got {type(gradients).__name__}.")
    if gradients.ndim != 2 or not gradients.is_floating_point() or gradients.numel() == 0:
        raise SettingError(
            "gradients must be a floating (M, d) matrix with M, d >= 1, got"
            f" {gradients.dtype} of shape {tuple(gradients.shape)}."
        )


def sum_is_finite(values: Tensor) -> bool:
    """Whether one reduction tells that ``values`` are all finite; if not, their sum may just have overflowed."""
    return math.isfinite(values.sum().item())  # Tensor.isfinite takes longer than the sum of a small model


def finite_rows(rows: Tensor) -> Any:
    """Mask ``(M,)`` of the rows without NaN and infinity, or ``...`` where that is all of them."""
    if sum_is_finite(rows):
        return ...
    mask = rows.isfinite().all(dim=1)
    return ... if bool(mask.all()) else mask


def drop_nonfinite(rows: Tensor, context: Context) -> tuple[Tensor, Context]:
    """The finite rows, and a context that knows which were dropped."""
    finite = finite_rows(rows)
    if finite is ...:
        return rows, context
    num_dropped = context.num_dropped + int((~finite).sum())
    of_all = finite
    if context.finite is not None:
        of_all = context.finite.clone().masked_scatter_(context.finite, finite)
    return rows[finite], replace(context, num_dropped=num_dropped, finite=of_all)
