"""Sweeps: many runs of the command line, side by side.

``lightning-agg sweep -c configs/sweep/majority.yaml`` combines the choices of a file; from Python the same is
``Sweep(axes={...}, configs=[...]).run()``.
"""

from lightning_agg.sweep.sweep import Sweep

__all__ = ["Sweep"]
