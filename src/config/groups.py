"""The config groups, their options and the summary of each option, read from the config folders."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from src import ROOT

ENTRY_POINTS = "gridlight.extensions"
"""Group of the entry points with which an installed package declares its modules."""
CONF = ROOT / "conf"
SWEEPS = ROOT / "sweeps"


def search_roots(argv: Sequence[str]) -> list[Path]:
    """Return the config folders of a command line: the user's (``--config-dir``, ``hydra.searchpath``), then conf/."""
    roots: list[Path] = []
    for position, argument in enumerate(argv):
        key, _, value = argument.partition("=")
        if key in ("--config-dir", "-cd"):
            roots.append(Path(value or next(iter(argv[position + 1 :]), "")))
        if key == "hydra.searchpath":
            entries = (entry.strip(" '\"") for entry in value.strip("[]").split(","))
            roots += [_root(entry) for entry in entries if entry]
    return [*roots, CONF]


def _root(entry: str) -> Path:
    """Return the folder of an entry of ``hydra.searchpath``: ``file://…``, ``pkg://package.folder`` or a bare path."""
    url = urlparse(entry)
    path = url.netloc + url.path
    if url.scheme != "pkg":
        return Path(path)
    try:
        spec = find_spec(path.strip("/").replace("/", "."))
    except ImportError:
        spec = None
    return Path(next(iter((spec and spec.submodule_search_locations) or [entry])))


@cache
def extension_modules() -> frozenset[str]:
    """Return the modules that installed packages declare; a package in the working directory is not installed."""
    working_directory = {"", os.getcwd()}
    paths = [path for path in sys.path if path not in working_directory]
    modules = set()
    for distribution in importlib.metadata.distributions(path=paths):
        modules |= {point.value.partition(":")[0] for point in distribution.entry_points if point.group == ENTRY_POINTS}
    return frozenset(modules)


@cache
def extension_folders() -> tuple[Path, ...]:
    """Return the config folders of installed extensions: the folder conf of the package that each one declares."""
    packages = sorted({module.partition(".")[0] for module in extension_modules()})
    specs = [find_spec(package) for package in packages]  # of a package, not of a module in it: nothing is imported
    locations = [Path(path, "conf") for spec in specs if spec for path in spec.submodule_search_locations or ()]
    return tuple(folder for folder in locations if folder.is_dir())


def option_folders(argv: Sequence[str]) -> list[Path]:
    """Return the config folders whose options a command line can choose: the user's, those of extensions, then conf/."""
    *own, shipped = search_roots(argv)
    return [*own, *extension_folders(), shipped]


def groups(roots: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return {group: {option: summary}}, without the option files whose names start with an underscore."""
    options: dict[str, dict[str, str]] = {}
    for root in reversed(roots):
        for path in sorted(root.glob("*/**/*.yaml")):
            if not path.name.startswith("_"):
                options.setdefault(path.parent.relative_to(root).as_posix(), {})[path.stem] = summary(path)
    return options


def sweeps() -> dict[str, str]:
    """Return {name: summary} of the shipped sweeps, which ``+sweeps=name`` adds to a command with ``-m``."""
    return {path.stem: summary(path) for path in sorted(SWEEPS.glob("*.yaml"))}


def summary(path: Path) -> str:
    """Return the first comment of an option file, which describes the option."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") and "@package" not in line:
                return line.lstrip("# ").strip()
            if line.strip() and not line.startswith("#"):
                break
    return ""
