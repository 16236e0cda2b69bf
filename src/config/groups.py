"""What can be chosen: the config groups, their options and the summary of each, read off the config folders."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from src import ROOT

CONF = ROOT / "conf"
SWEEPS = ROOT / "sweeps"


def search_roots(argv: Sequence[str]) -> list[Path]:
    """Return the config folders of a command line: a user's own (``--config-dir``, ``hydra.searchpath``), then ours."""
    roots: list[Path] = []
    for position, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            roots.append(Path(value or next(iter(argv[position + 1 :]), "")))
        if flag == "hydra.searchpath":
            entries = (entry.strip(" '\"") for entry in value.strip("[]").split(","))
            roots += [_root(entry) for entry in entries if entry]
    return [*roots, CONF]


def _root(entry: str) -> Path:
    """Return the folder of an entry of ``hydra.searchpath``: ``file://…``, ``pkg://package.folder`` or a bare path."""
    url = urlparse(entry)
    place = url.netloc + url.path
    if url.scheme != "pkg":
        return Path(place)
    try:
        spec = find_spec(place.strip("/").replace("/", "."))
    except ImportError:
        spec = None
    return Path(next(iter((spec and spec.submodule_search_locations) or [entry])))


def groups(roots: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return {group: {option: summary}}; options whose names start with an underscore are not for choosing."""
    found: dict[str, dict[str, str]] = {}
    for root in reversed(roots):
        for path in sorted(root.glob("*/**/*.yaml")):
            if not path.name.startswith("_"):
                found.setdefault(path.parent.relative_to(root).as_posix(), {})[path.stem] = summary(path)
    return found


def sweeps() -> dict[str, str]:
    """Return {name: summary} of the shipped sweeps, which ``+sweeps=name`` adds to a command with ``-m``."""
    return {path.stem: summary(path) for path in sorted(SWEEPS.glob("*.yaml"))}


def summary(path: Path) -> str:
    """Return the first comment of an option file, which says what the choice is."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") and "@package" not in line:
                return line.lstrip("# ").strip()
            if line.strip() and not line.startswith("#"):
                break
    return ""
