"""Folders that one process at a time may work in."""

import fcntl
from pathlib import Path
from typing import TextIO


def lock(folder: Path) -> TextIO | None:
    """A lock on a folder, which holds until it is closed or the process ends; ``None`` if another has it.

    Raises:
        OSError: If nothing can be written there.
    """
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
