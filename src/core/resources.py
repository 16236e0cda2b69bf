"""How much memory and how many cores there are, and what fits into the memory."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from src.core.errors import UserError

log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_REFS = Path("/proc/self/clear_refs")


def available_memory() -> int:
    """Return the bytes that this process can still take: of the machine, or of its container where that has less."""
    limits = [_free(), _left_in_the_container()]
    return min(limit for limit in limits if limit is not None)


def _free() -> int:
    if _MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # where nobody says what is free


def _left_in_the_container() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        return None if limit == "max" else max(int(limit) - used, 0)
    except (OSError, ValueError):
        return None


def fits(needed: int, share: float, what: str) -> bool:
    """Tell whether data may be held in memory, and say so in the log where they may not.

    Args:
        needed: bytes.
        share: of the available memory that they may take (``datamodule.memory_share``).
        what: the data.
    """
    available = available_memory()
    if needed <= share * available:
        return True
    log.info(
        "%s: %s in memory would be above %.0f %% of the %s that are free (datamodule.memory_share)",
        what,
        shown_bytes(needed),
        100 * share,
        shown_bytes(available),
    )
    return False


SMALL = 2**28
"""Bytes that are never refused, so that small data cost no look at the memory."""

MAX_GENERATED = "GRIDLIGHT_MAX_GENERATED_GB"
"""Environment variable: the most data that are generated from a config, in GB."""

_GENERATED_GB = 16.0


def refuse_too_much(needed: int, what: str) -> None:
    """Refuse to make data that the memory cannot hold.

    Args:
        needed: bytes.
        what: what asks for them, such as keys with their values.

    Raises:
        UserError: if fewer bytes are free.
    """
    if needed > SMALL and needed > (available := available_memory()):
        raise UserError(f"{what}: {shown_bytes(needed)} of data, and {shown_bytes(available)} of memory are free")


def refuse_to_generate(needed: int, what: str) -> None:
    """Refuse to generate data of a size that no experiment with generated data needs, or that the memory cannot hold.

    The config may be recorded by someone else, so that free memory alone is no bound.

    Args:
        needed: bytes.
        what: the keys that ask for them, with their values.

    Raises:
        UserError: if they are more than 16 GB, or than the environment variable `MAX_GENERATED` allows, or if fewer are free.
    """
    try:
        most = 1e9 * float(os.environ.get(MAX_GENERATED) or _GENERATED_GB)
    except ValueError as error:
        raise UserError(f"{MAX_GENERATED}={os.environ[MAX_GENERATED]}: this is not a number of GB") from error
    if needed > most:
        raise UserError(
            f"{what}: {shown_bytes(needed)} of generated data; at most {shown_bytes(most)}, unless {MAX_GENERATED} allows more"
        )
    refuse_too_much(needed, what)


def resident(peak: bool = False) -> int:
    """Return the bytes of memory that this process holds, or that it held at the most since `forget_peak`."""
    if not _STATUS.is_file():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, which tells the peak alone, in bytes
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def forget_peak() -> None:
    """Let the peak of `resident` begin anew, where the system can do that."""
    with suppress(OSError):
        _REFS.write_text("5")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shown_bytes(count: float) -> str:
    """Return a number of bytes as people read it: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
