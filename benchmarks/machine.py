"""Description of the machine that results were measured on."""

import os
import platform
from datetime import date
from pathlib import Path


def machine() -> str:
    """Return the processor and the number of usable cores, such as ``AMD EPYC 7B13, 2 cores``."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def today() -> str:
    return date.today().isoformat()


def load() -> str:
    """Return the load of the machine; results of a busy machine are unreliable."""
    return f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
