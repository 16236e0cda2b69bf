"""Available memory and cores, and checks whether data fit into memory."""

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

from src.core.errors import UserError

log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_REFS = Path("/proc/self/clear_refs")


def available_memory() -> int:
    """Return the memory in bytes that this process can allocate: that of the machine, or of its container if that is less."""
    available = _read_size(_MEMINFO, "MemAvailable")
    if available is None:  # the system does not report it
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with suppress(OSError, ValueError):  # not in a container, or in one without a limit
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, max(limit - used, 0))
    return available


def _read_size(file: Path, name: str) -> int | None:
    """Return an entry of a file of /proc in bytes; None if there is none."""
    with suppress(OSError):
        for entry in file.read_text().splitlines():
            key, _, value = entry.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    return None


def fits_in_memory(needed: int, share: float, name: str) -> bool:
    """Return whether data may be held in memory, and log a message if not.

    Args:
        needed: bytes.
        share: maximum share of the available memory (``datamodule.memory_share``).
        name: name of the data, for the log.
    """
    available = available_memory()
    if needed <= share * available:
        return True
    log.info(
        "%s: %s in memory would exceed %.0f %% of the available %s (datamodule.memory_share)",
        name,
        format_bytes(needed),
        100 * share,
        format_bytes(available),
    )
    return False


SMALL = 2**28
"""Size in bytes that is always allowed, without querying the available memory."""

MAX_GENERATED = "GRIDLIGHT_MAX_GENERATED_GB"
"""Environment variable: the maximum size of data that are generated from a config, in GB."""

_GENERATED_GB = 16.0


def check_memory(needed: int, source: str) -> None:
    """Raise an error if data do not fit into memory.

    Args:
        needed: bytes.
        source: what requires them, such as keys with their values, for the error.

    Raises:
        UserError: if less memory is available.
    """
    if needed > SMALL and needed > (available := available_memory()):
        raise UserError(f"{source}: {format_bytes(needed)} of data, and {format_bytes(available)} of memory are free")


def check_generated_size(needed: int, source: str) -> None:
    """Raise an error if generated data are larger than any experiment needs, or do not fit into memory.

    The config may come from someone else, so the available memory is not a sufficient limit.

    Args:
        needed: bytes.
        source: the keys that require them, with their values, for the error.

    Raises:
        UserError: if they exceed 16 GB, or the limit in the environment variable `MAX_GENERATED`, or the available memory.
    """
    try:
        limit = 1e9 * float(os.environ.get(MAX_GENERATED) or _GENERATED_GB)
    except ValueError as error:
        raise UserError(f"{MAX_GENERATED}={os.environ[MAX_GENERATED]}: this is not a number of GB") from error
    if needed > limit:
        raise UserError(
            f"{source}: {format_bytes(needed)} of generated data; at most {format_bytes(limit)} "
            f"unless {MAX_GENERATED} allows more"
        )
    check_memory(needed, source)


def resident_memory(peak: bool = False) -> int:
    """Return the resident memory of this process in bytes, or its peak since `reset_peak_memory`."""
    size = _read_size(_STATUS, "VmHWM" if peak else "VmRSS")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if size is None else size  # macOS has the peak, in bytes


def reset_peak_memory() -> None:
    """Reset the peak of `resident_memory`, if the system supports it."""
    with suppress(OSError):
        _REFS.write_text("5")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def format_bytes(count: float) -> str:
    """Format a number of bytes, such as ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
