"""The config groups, their options and the summary of each option, read from the config folders."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from src import ROOT

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
