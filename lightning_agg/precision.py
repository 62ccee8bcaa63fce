"""Aggregation in the precision of its rows."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_WIDE = frozenset((torch.float32, torch.float64))


def full_precision(rows: Tensor) -> AbstractContextManager[object]:
    """A context without the autocast of ``trainer.precision: bf16-mixed`` or ``16-mixed``, in which squares of gradients vanish."""
    kind = rows.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def wide_dtype(rows: Tensor) -> torch.dtype:
    """That of the rows, or float32 where that is wider."""
    dtype = rows.dtype
    return dtype if dtype in _WIDE else torch.promote_types(dtype, torch.float32)  # which takes longer


def widened(rows: Tensor) -> Tensor:
    """The rows in at least float32."""
    dtype = wide_dtype(rows)
    return rows if rows.dtype == dtype else rows.to(dtype)
