"""Run folders read back for comparison: whatever they hold, each that can be read becomes a `RecordedRun`.

Two thousand are read in seconds: of config.yaml, each section is parsed once, however many runs share it, and
metrics.jsonl is read only when a curve is asked for, or where run.json has no value yet.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from src.core.errors import UserError, nearest
from src.core.files import is_file_below, read_below, walk
from src.core.records import RecordError, VersionError, parse_yaml
from src.run_store.filters import flat
from src.run_store.metrics_file import read_metrics
from src.run_store.predictions import read_predictions
from src.run_store.recorded_run import Curve, RecordedRun, curves_of, recorded_run
from src.run_store.run_folder import RunFolder, read_record

MAX_PICTURES = 100
"""Attention maps of a run that are shown."""

MAX_PICTURES_BYTES = 32 * 2**20
"""Bytes of all attention maps of a run that are shown."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NAMED = 3
"""Folders that a remark names; further ones are counted."""


class NoRuns(UserError):
    """There are no runs in a folder, or none yet."""


class Remarks:
    """What was left out while reading, each kind said once, with the folders that it concerns."""

    def __init__(self) -> None:
        self._found: dict[str, list[Path]] = {}

    def add(self, what: str, path: Path) -> None:
        paths = self._found.setdefault(what, [])
        if path not in paths:
            paths.append(path)

    def __str__(self) -> str:
        return "\n".join(f"{what}: {_few(paths)}" for what, paths in self._found.items())

    def __bool__(self) -> bool:
        return bool(self._found)


def _few(paths: Sequence[Path]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(map(_shown, paths[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _shown(path: Path) -> str:
    return str(path).removeprefix(f"{os.getcwd()}{os.sep}")  # `Path.relative_to` takes forty times as long


def read_runs(*paths: Path, remarks: Remarks | None = None) -> list[RecordedRun]:
    """Return the runs in some folders, in the order of their names, each once.

    Args:
        paths: run folders, sweeps, or any folders that hold such.
        remarks: gets what had to be left out.

    Raises:
        NoRuns: if a folder does not exist or holds no run.
        UserError: if no run in it can be read.
    """
    remarks = Remarks() if remarks is None else remarks
    folders: dict[Path, None] = {}
    for path in paths:
        found = list(_run_folders(path))
        if not found:
            raise NoRuns(f"{path}: there are no runs in this folder; a sweep's is outputs/sweeps/<name>")
        folders.update(dict.fromkeys(found))
    several = len({folder.parent for folder in folders}) > 1
    runs = [run for folder in folders if (run := _read(folder, several, remarks)) is not None]
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run here can be read\n{remarks}")
    return runs


def _run_folders(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a path; nothing is looked for within a run."""
    path = path.absolute()
    if not path.is_dir():
        if path.is_file():
            raise UserError(f"{path}: this is a file; compare reads folders of runs")
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [folder.name for folder in beside if folder.is_dir() and not folder.name.startswith(".")]
        near = f". {nearest(path.name, names)}" if names else ""
        raise NoRuns(f"{path}: there is no such folder{near}")
    for folder, below, files in walk(path):
        if "config.yaml" in files:
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _read(folder: Path, several: bool, remarks: Remarks) -> RecordedRun | None:
    """Return a run, or None if the folder holds none."""
    try:
        config = read_config(read_below(folder, "config.yaml"))
    except (OSError, UserError):
        remarks.add("left out, as config.yaml cannot be read", folder)
        return None
    record = _record(folder, remarks)
    if record is None:
        return None
    if record.get("status") == "running" and not RunFolder(folder, record).alive:
        record = _record(folder, remarks) or record  # it may have ended between the two looks
        if record["status"] == "running":
            record["status"] = "interrupted"
    return recorded_run(
        name=f"{folder.parent.name}/{folder.name}" if several else folder.name,
        place=_shown(folder),
        config=config,
        record=record,
        read_curves=partial(_read_curves, folder, remarks),
        read_answers=partial(_read_answers, folder),
        read_attention=partial(_read_attention, folder),
        folder=folder,
    )


def _record(folder: Path, remarks: Remarks) -> dict[str, Any] | None:
    """Return run.json, or what can be said without it; None if the folder holds no run."""
    try:
        return read_record(folder)
    except FileNotFoundError:
        if not is_file_below(folder, "metrics.jsonl"):
            remarks.add("left out, as there is neither run.json nor metrics.jsonl", folder)
            return None
        remarks.add("run.json is missing, so the status is unknown", folder)
    except VersionError as error:
        remarks.add(f"left out, as run.json has {error.what}", folder)
        return None
    except (OSError, UserError):
        remarks.add("run.json is damaged, so the status is unknown", folder)
    return {"status": "unknown"}


def _read_curves(folder: Path, remarks: Remarks) -> dict[str, Curve]:
    entries = read_metrics(folder, damaged=partial(remarks.add, "lines of metrics.jsonl are torn and left out", folder))
    return curves_of(entries)


def _read_answers(folder: Path) -> Any:
    try:
        return read_predictions(folder)
    except (OSError, UserError):
        return None


def _read_attention(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    room = MAX_PICTURES_BYTES
    for file in sorted((folder / "plots").glob("attention-*.png"))[:MAX_PICTURES]:
        with suppress(OSError, UserError):
            picture = read_below(folder, f"plots/{file.name}", room)
            if picture.startswith(_PNG):
                found[file.stem] = picture
                room -= len(picture)
    return found


_MAX_SECTIONS = 1000
"""Sections of a config that are parsed one by one."""

MAX_KEYS = 10_000
"""The most keys of a config that is compared."""


# ---- config.yaml ---------------------------------------------------------------------------------------------------


def read_config(text: bytes) -> dict[str, Any]:
    """Return a config, a value a dotted key.

    The sections of a block mapping are independent of each other: so each is parsed by itself, once for all runs that have it.

    Args:
        text: of config.yaml, in UTF-8.

    Raises:
        RecordError: if it is no YAML of plain containers, holds no mapping, or has more than `MAX_KEYS`.
    """
    config = _flat_config(text)
    if len(config) > MAX_KEYS:
        raise RecordError(f"config.yaml: more than {MAX_KEYS:,} keys")
    return config


def _flat_config(text: bytes) -> dict[str, Any]:
    try:
        sections = re.split(r"\n(?=[^\s#-])", text.decode("utf-8").strip())
        if len(sections) > _MAX_SECTIONS:
            return dict(_leaves(parse_yaml(text, "config.yaml")))
        found: dict[str, Any] = {}
        for section in sections:
            found.update(_section(section))
        return found
    except (UnicodeDecodeError, RecordError):  # a hand-written one may be laid out in another way
        return dict(_leaves(parse_yaml(text, "config.yaml")))


@lru_cache(maxsize=8192)
def _section(text: str) -> Mapping[str, Any]:
    return dict(_leaves(parse_yaml(text, "config.yaml")))


def _leaves(node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        raise RecordError("config.yaml: this is not a config: a mapping is expected")
    return flat(node)
