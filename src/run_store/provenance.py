"""Where a result comes from: the code, the packages, the machine and the command."""

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src import ROOT
from src.core.resources import usable_cores

PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "numpy",
    "scikit-learn",
    "kornia",
    "pytorch_optimizer",
    "babel",
    "wandb",
)
"""The packages whose versions can change a number or a record."""

DIFF_LIMIT = 50_000
"""Characters of a diff that are kept: a change of code fits, a data file committed by mistake does not."""

GIT_TIMEOUT = 5.0
"""Seconds that git may take; on a hanging network disk a run starts without it."""


_remembered: dict[str, Any] = {}


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Return everything below, as it stands in run.json.

    Args:
        command: the words of the command line.
    """
    return {"command": shlex.join(command), **(_remembered or _here()), "pid": os.getpid()}


def remember() -> None:
    """Look once, for all runs of this process and of those forked from it: they run the code that is loaded now."""
    _remembered.update(_here())


def _here() -> dict[str, Any]:
    return {
        "git": git_state(),
        "packages": package_versions(),
        "hardware": hardware(),
        "host": socket.gethostname(),
    }


def git_state(folder: Path = ROOT) -> dict[str, Any] | None:
    """Return the revision of the code and what was changed since; None without git or outside a repository.

    Args:
        folder: any folder of the working tree.

    Returns:
        ``revision``, ``branch`` (None when detached), ``diff`` against the revision (cut at `DIFF_LIMIT` characters),
        ``diff_complete``, and ``untracked``, the files that no diff shows.
    """
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    branch = _git(folder, "symbolic-ref", "--short", "--quiet", "HEAD")
    diff = _git(folder, "diff", "--no-color", "--no-ext-diff", "HEAD") or ""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard") or ""
    return {
        "revision": revision.strip(),
        "branch": branch.strip() if branch else None,
        "diff": diff[:DIFF_LIMIT],
        "diff_complete": len(diff) <= DIFF_LIMIT,
        "untracked": untracked.splitlines()[:100],
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None if there is no git, no repository or no answer in time."""
    found = run_git(folder, *arguments)
    return None if found is None else found.decode("utf-8", errors="replace").replace("\r\n", "\n")


def run_git(
    folder: Path, *arguments: str, given: bytes = b"", alone: bool = False, seconds: float | None = None
) -> bytes | None:
    """Run git and return what it prints, or None if there is no git, if it fails, or if it takes too long.

    Hooks do not run. A value from a record must be validated by its shape before it becomes an argument.

    Args:
        folder: the working directory.
        arguments: a command of git and its arguments.
        given: the standard input.
        alone: whether git uses neither the configuration nor a repository of the user: for a folder that is none.
        seconds: that it may take; `GIT_TIMEOUT` by default.
    """
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    if alone:
        environment = {name: value for name, value in environment.items() if not name.startswith("GIT_")} | {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CEILING_DIRECTORIES": os.path.realpath(folder.parent),
            "GIT_TERMINAL_PROMPT": "0",
        }
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            input=given,
            capture_output=True,
            timeout=seconds or GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages of `PACKAGES`."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: text for name, text in found.items() if text is not None}


def version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Return the processor, the cores (of the machine, and those that this process may use) and the memory in GiB."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gib": _memory_gib(),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
