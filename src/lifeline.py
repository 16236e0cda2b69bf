"""A process that ends when the one that started it does."""

import ctypes
import os
import signal
import sys


def end_with_parent(parent: int | None = None) -> None:
    """Let the system kill this process when its parent dies, however that dies; on Linux only.

    Args:
        parent: its process id, where it is known; it may be dead by now, and then nothing would tell.
    """
    if not sys.platform.startswith("linux"):
        return
    if parent is None:
        parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)
