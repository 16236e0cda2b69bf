"""Record the provenance of a result: the code, the packages, the machine and the command."""

import importlib.metadata
import os
import platform
import socket
import subprocess
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
"""Maximum length of a recorded diff in characters: a change of code fits, a data file added by mistake does not."""

GIT_TIMEOUT = 5.0
"""Timeout of git in seconds; if a network disk hangs, a run starts without git's information."""


_cached: dict[str, Any] = {}


def provenance() -> dict[str, Any]:
    """Return the entries of run.json about the code, the packages, the machine and the process."""
    return {**(_cached or _environment()), "pid": os.getpid()}


def cache_provenance() -> None:
    """Cache the provenance for all runs of this process and its forks, which run the code that is loaded now."""
    _cached.update(_environment())


def _environment() -> dict[str, Any]:
    return {
        "git": git_state(),
        "packages": package_versions(),
        "hardware": hardware(),
        "host": socket.gethostname(),
    }


def git_state(folder: Path = ROOT) -> dict[str, Any] | None:
    """Return the revision of the code and its uncommitted changes; None without git or outside of a repository.

    Args:
        folder: any folder of the working tree.

    Returns:
        ``revision``, ``branch`` (None when detached), ``diff`` against the revision (cut at `DIFF_LIMIT` characters),
        ``diff_complete``, and ``untracked``, the files that are not part of the diff.
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
    """Return the output of git, or None if there is no git, no repository, or no output within the timeout."""
    output = run_git(folder, *arguments)
    return None if output is None else output.decode("utf-8", errors="replace").replace("\r\n", "\n")


def run_git(
    folder: Path, *arguments: str, stdin: bytes = b"", isolated: bool = False, timeout: float | None = None
) -> bytes | None:
    """Run git and return its output, or None if there is no git, if it fails, or if it takes too long.

    Hooks do not run. Validate the format of a value from a record before you pass it as an argument.

    Args:
        folder: the working directory.
        arguments: a command of git and its arguments.
        stdin: the standard input.
        isolated: ignore the configuration and the repositories of the user, for a folder that is not a repository.
        timeout: in seconds; `GIT_TIMEOUT` by default.
    """
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    if isolated:
        environment = {name: value for name, value in environment.items() if not name.startswith("GIT_")} | {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CEILING_DIRECTORIES": os.path.realpath(folder.parent),
            "GIT_TERMINAL_PROMPT": "0",
        }
    argv = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", *arguments]
    try:
        process = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=timeout or GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages of `PACKAGES`."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {name: text for name, text in versions.items() if text is not None}


def version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Return the platform, the processor, the cores (of the machine, and usable by this process) and the memory in GiB."""
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
