"""Read run folders for a comparison: each folder that can be read becomes a `RecordedRun`.

Two thousand runs are read in seconds: each distinct section of config.yaml is parsed once, and metrics.jsonl is read only
if a curve is needed, or if run.json has no value yet.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from src.core.errors import UserError, nearest
from src.core.files import is_file_below, read_below, walk
from src.core.records import RecordError, VersionError, parse_yaml
from src.run_store.filters import flatten
from src.run_store.metrics_file import read_metrics
from src.run_store.predictions import load_predictions
from src.run_store.recorded_run import Curve, RecordedRun, curves_of, recorded_run
from src.run_store.run_folder import RunFolder, read_record

MAX_ATTENTION_MAPS = 100
"""Maximum number of attention maps that are shown for a run."""

MAX_ATTENTION_BYTES = 32 * 2**20
"""Maximum total size in bytes of the attention maps that are shown for a run."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_LISTED = 3
"""Number of folders that a warning names; the others are counted."""


class NoRuns(UserError):
    """A folder does not exist or contains no runs."""


class ReadWarnings:
    """Warnings about what was left out while reading; each message is shown once, with the folders that it concerns."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = {}

    def add(self, message: str, path: Path) -> None:
        paths = self._paths.setdefault(message, [])
        if path not in paths:
            paths.append(path)

    def __str__(self) -> str:
        lines = []
        for message, paths in self._paths.items():
            more = f" and {len(paths) - _MAX_LISTED} more" if len(paths) > _MAX_LISTED else ""
            lines.append(f"{message}: {', '.join(map(_display_path, paths[:_MAX_LISTED]))}{more}")
        return "\n".join(lines)

    def __bool__(self) -> bool:
        return bool(self._paths)


def _display_path(path: Path) -> str:
    return str(path).removeprefix(f"{os.getcwd()}{os.sep}")  # `Path.relative_to` takes forty times as long


def read_runs(*paths: Path, read_warnings: ReadWarnings | None = None) -> list[RecordedRun]:
    """Return the runs in some folders, in the order of their names, without duplicates.

    Args:
        paths: run folders, sweeps, or any folders that contain them.
        remarks: collects warnings about what was left out.

    Raises:
        NoRuns: if a folder does not exist or contains no run.
        UserError: if none of the runs can be read.
    """
    read_warnings = ReadWarnings() if read_warnings is None else read_warnings
    folders: dict[Path, None] = {}
    for path in paths:
        run_folders = list(_run_folders(path))
        if not run_folders:
            raise NoRuns(f"{path}: there are no runs in this folder; the folder of a sweep is outputs/sweeps/<name>")
        folders.update(dict.fromkeys(run_folders))
    several = len({folder.parent for folder in folders}) > 1
    runs = [run for folder in folders if (run := _read(folder, several, read_warnings)) is not None]
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run here can be read\n{read_warnings}")
    return runs


def _run_folders(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a path, without searching within runs."""
    path = path.absolute()
    if not path.is_dir():
        if path.is_file():
            raise UserError(f"{path}: this is a file; compare reads folders of runs")
        entries = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        suggestion = f". {nearest(path.name, names)}" if names else ""
        raise NoRuns(f"{path}: there is no such folder{suggestion}")
    for folder, subfolders, files in walk(path):
        if "config.yaml" in files:
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))


def _read(folder: Path, several: bool, read_warnings: ReadWarnings) -> RecordedRun | None:
    """Return the run of a folder, or None, with a warning, if it cannot be read."""
    try:
        config = read_config(read_below(folder, "config.yaml"))
    except (OSError, UserError):
        read_warnings.add("left out, as config.yaml cannot be read", folder)
        return None
    record = _record(folder, read_warnings)
    if record is None:
        return None
    if record.get("status") == "running" and not RunFolder(folder, record).alive:
        record = _record(folder, read_warnings) or record  # the run may have ended since the record was read
        if record["status"] == "running":
            record["status"] = "interrupted"
    return recorded_run(
        name=f"{folder.parent.name}/{folder.name}" if several else folder.name,
        place=_display_path(folder),
        config=config,
        record=record,
        read_curves=partial(_read_curves, folder, read_warnings),
        load_predictions=partial(load_predictions, folder),
        read_attention=partial(_read_attention, folder),
        folder=folder,
    )


def _record(folder: Path, read_warnings: ReadWarnings) -> dict[str, Any] | None:
    """Return the contents of run.json, or a record of unknown status; None if the folder is not a run."""
    try:
        return read_record(folder)
    except FileNotFoundError:
        if not is_file_below(folder, "metrics.jsonl"):
            read_warnings.add("left out, as there is neither run.json nor metrics.jsonl", folder)
            return None
        read_warnings.add("run.json is missing, so the status is unknown", folder)
    except VersionError as error:
        read_warnings.add(f"left out, as run.json has {error.reason}", folder)
        return None
    except (OSError, UserError):
        read_warnings.add("run.json is damaged, so the status is unknown", folder)
    return {"status": "unknown"}


def _read_curves(folder: Path, read_warnings: ReadWarnings) -> dict[str, Curve]:
    message = "lines of metrics.jsonl are damaged and left out"
    return curves_of(read_metrics(folder, damaged=partial(read_warnings.add, message, folder)))


def _read_attention(folder: Path) -> dict[str, bytes]:
    maps: dict[str, bytes] = {}
    remaining = MAX_ATTENTION_BYTES
    for file in sorted((folder / "plots").glob("attention-*.png"))[:MAX_ATTENTION_MAPS]:
        with suppress(OSError, UserError):
            png = read_below(folder, f"plots/{file.name}", remaining)
            if png.startswith(_PNG):
                maps[file.stem] = png
                remaining -= len(png)
    return maps


_MAX_SECTIONS = 1000
"""Maximum number of sections of a config that are parsed one by one."""

MAX_KEYS = 10_000
"""Maximum number of keys of a config."""


# ---- config.yaml ---------------------------------------------------------------------------------------------------


def read_config(text: bytes) -> dict[str, Any]:
    """Return a config as values by dotted key.

    The sections of a block mapping are independent of each other, so each is parsed by itself, once for all runs that share it.

    Args:
        text: contents of config.yaml, in UTF-8.

    Raises:
        RecordError: if it is not YAML of plain containers, is not a mapping, or has more than `MAX_KEYS` keys.
    """
    config: dict[str, Any] = {}
    try:
        sections = re.split(r"\n(?=[^\s#-])", text.decode("utf-8").strip())
        for section in sections if len(sections) <= _MAX_SECTIONS else ():
            config.update(_flat_section(section))
    except (UnicodeDecodeError, RecordError):  # a hand-written config may have another layout
        config = {}
    config = config or dict(_flat_config(text))
    if len(config) > MAX_KEYS:
        raise RecordError(f"config.yaml: more than {MAX_KEYS:,} keys")
    return config


def _flat_config(text: bytes | str) -> Mapping[str, Any]:
    """Return the values of a config, or of one of its sections, by dotted key."""
    node = parse_yaml(text, "config.yaml")
    if not isinstance(node, Mapping):
        raise RecordError("config.yaml: expected a mapping")
    return dict(flatten(node))


_flat_section = lru_cache(maxsize=8192)(_flat_config)
