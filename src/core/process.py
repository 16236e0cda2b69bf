"""Process helpers: ending with the parent process, and allocator tuning."""

import ctypes
import os
import signal
import sys
from contextlib import suppress


def set_parent_death_signal(parent: int | None = None) -> None:
    """Let the kernel kill this process when its parent dies for any reason. Linux only.

    Args:
        parent: the process id of the parent. Pass it if the parent may already be dead, in which case no signal would come.
    """
    if not sys.platform.startswith("linux"):
        return
    if parent is None:
        parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os.kill(os.getpid(), signal.SIGKILL)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def tune_allocator() -> None:
    """Let the C library keep freed memory for later allocations.

    By default glibc returns blocks of several megabytes to the system, so that the activations of each step are allocated in
    new pages, which the kernel must fill with zeros: about a fifth of the step of 32 members of the digits MLP (AMD EPYC,
    torch 2.13, 2026-11-26). Has no effect if the C library has no such setting.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc; not Linux; Windows
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**25)  # the maximum
        library.mallopt(_TRIM_THRESHOLD, 2**28)  # per process of a sweep
