"""What becomes of memory that a step of training frees."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is needed next. By itself it gives blocks of some megabytes back to the
    system, so that every step finds its activations in new pages, each of which the system must fill with zeros first:
    about a fifth of the step of 32 members of the digits MLP (AMD EPYC, torch 2.13, 2026-11-26). Where the library has no
    such setting, nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc; not Linux; Windows
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**25)  # the most that it takes
        library.mallopt(_TRIM_THRESHOLD, 2**28)  # of each process of a sweep
