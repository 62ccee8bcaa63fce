"""Aggregation in the precision of its rows."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(rows: Tensor) -> AbstractContextManager[object]:
    """A context without the autocast of ``trainer.precision: bf16-mixed`` or ``16-mixed``, in which squares of gradients vanish."""
    kind = rows.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
