"""What a process of a sweep does first."""

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import Any

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as the environment names them."""
    told = os.environ.get(VISIBLE)
    if told is not None:
        return [device for device in told.split(",") if device]
    return [str(index) for index in range(torch.cuda.device_count())]


def begin(begun: Any, devices: Sequence[str]) -> None:
    """Take one of the GPUs, in turn, leave Ctrl-C to the process that started this one, and end as soon as that is gone.

    Args:
        begun: Shared count of the processes that have begun.
        devices: GPUs to choose from; with none the environment is left as it is.
    """
    if devices:
        with begun.get_lock():
            os.environ[VISIBLE] = devices[begun.value % len(devices)]
            begun.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
