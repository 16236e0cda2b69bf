"""Command line of `python -m src.doctor`: check the installation, and check that a resumed run equals an uninterrupted one."""

import os
import platform
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

from src import ROOT
from src.config.groups import groups, option_folders
from src.core.console import echo
from src.core.errors import UserError, nearest


def findings() -> Iterator[tuple[bool | None, str]]:
    """Yield pairs of a state (True: good, False: missing, None: missing but optional) and a line about it."""
    recent = sys.version_info >= (3, 11)
    yield recent, f"Python {platform.python_version()} (3.11 or newer is needed)"
    if not recent:
        return  # the other checks need it
    yield from _packages()
    yield from _devices()
    yield from _folders()
    yield _wandb()
    options = groups(option_folders([]))
    yield (
        bool(options),
        f"{sum(map(len, options.values()))} options in {len(options)} config groups, in {ROOT / 'conf'}",
    )


def _packages() -> Iterator[tuple[bool | None, str]]:
    """Check for every package of pyproject.toml without importing it."""
    from src.run_store.provenance import version

    for extra, requirement in _requirements():
        package = re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]
        if package == "gridlight":
            continue  # an extra that includes others
        install = f"pip install -c constraints.txt -e .{f'[{extra}]' if extra else ''}"
        if installed := version(package):
            yield True, f"{package} {installed}"
        else:
            yield None if extra else False, f"{package} is not installed: {install}"


def _requirements() -> Iterator[tuple[str, str]]:
    """Yield the extra, empty for none, and the requirement: of the checkout, or of the installed package."""
    if (ROOT / "pyproject.toml").is_file():
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra, requirements in {"": project["dependencies"], **project["optional-dependencies"]}.items():
            yield from ((extra, requirement) for requirement in requirements)
        return
    from importlib.metadata import requires

    for requirement in requires("gridlight") or ():
        extra_of = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        yield extra_of[1] if extra_of else "", requirement


def _devices() -> Iterator[tuple[bool, str]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield True, f"{cores} CPU cores"
    try:
        import torch
    except ImportError as error:
        yield False, f"torch does not import: {error}"
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield True, f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif torch.backends.mps.is_available():
        yield True, "Apple GPU (trainer.accelerator=mps)"
    else:
        yield True, f"no GPU that torch {torch.__version__} can use; runs go to the CPU"


def _folders() -> Iterator[tuple[bool, str]]:
    for name, path in (
        ("paths.outputs", Path("outputs")),
        ("paths.data", Path(os.environ.get("GRIDLIGHT_DATA", "data"))),
    ):
        existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        writable = os.access(existing, os.W_OK)
        state = "writable" if writable else "NOT writable"
        yield writable or name == "paths.data", f"{name}: {path.absolute()} ({state})"


def _wandb() -> tuple[bool | None, str]:
    try:
        from src.loggers.wandb.connection import key_is_configured

        return True, _wandb_state(key_is_configured())
    except ImportError as error:
        return None, f"Weights & Biases cannot be checked: {error}"
    except UserError as error:
        return False, str(error)


def _wandb_state(key: bool) -> str:
    if os.environ.get("WANDB_MODE"):
        return f"Weights & Biases: WANDB_MODE={os.environ['WANDB_MODE']}"
    if not key:
        return "Weights & Biases: no key, so runs are recorded offline (wandb login sends them to the server)"
    address = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=3):
            return f"Weights & Biases: a key is configured, {address.hostname} responds"
    except OSError as error:
        return f"Weights & Biases: a key is configured, {address.hostname} cannot be reached ({error}); runs continue offline"


def print_resume_check(overrides: list[str]) -> bool:
    """Print and return whether a run that is interrupted and resumed equals an uninterrupted one."""
    from src.diagnostics.resume_check import check_resume

    comparisons = check_resume(overrides)
    different = sum(not comparison.equal for comparison in comparisons)
    count = len(comparisons)
    echo(f"{different} of {count} differ" if different else f"resumed exactly: all {count} are equal")
    return not different


def run_overrides(argv: Sequence[str]) -> list[str]:
    """Return the overrides of a run, in which the bare name of an experiment means ``experiment=name``.

    Raises:
        UserError: for a flag, and for a bare name that is no experiment.
    """
    experiments = groups(option_folders(argv))["experiment"]
    overrides = []
    for argument in argv:
        if argument.startswith("-"):
            raise UserError(
                f"{argument}: the check takes the overrides of one run, such as model=mlp, and no flags but --help"
            )
        if "=" in argument or argument.startswith("~"):
            overrides.append(argument)
        elif argument in experiments:
            overrides.append(f"experiment={argument}")
        else:
            raise UserError(f"{argument}: there is no such experiment. {nearest(argument, experiments)}")
    return overrides
