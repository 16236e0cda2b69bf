"""Runs read back, for comparison: `RecordedRun` is all that a comparison knows of a run, wherever it was recorded.

Two thousand run folders are read in seconds: of config.yaml, each section is parsed once, however many runs share it,
and metrics.jsonl is read only when a curve is asked for, or where run.json has no value yet.
"""

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from src.errors import UserError, nearest
from src.spec import SPLITS
from src.tasks.catalogue import direction_of
from src.tracking.run_folder import RunFolder, read_metrics

_BESIDE = ("paths", "resume", "tags", "notes", "logger", "sweep", "callbacks")
"""Sections of a config that say where and how a run is recorded."""

SIZES = ("parameters", "multiply_adds")
"""Sizes of a run that its record holds; any other is a key of its config."""

_KEPT = (*SIZES, "best_epoch", "started", "command", "error", "wandb", "config_hash")
"""What a comparison keeps of run.json: without the git diff, which can be long."""

_NAMED = 3
"""Folders that a remark names; further ones are counted."""


class Curve(NamedTuple):
    """A metric over time.

    Args:
        epochs: [n], from 1.
        values: [n]; NaN where it was not finite.
    """

    epochs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class RecordedRun:
    """One run, as a comparison wants it.

    Args:
        name: what people call it.
        place: its folder, or its address on a server.
        config: its config, a value a dotted key, without what says where and how it is recorded.
        status: ``running``, ``interrupted``, ``failed``, ``pruned``, ``finished`` or ``unknown``.
        metric, mode: what selected its best epoch, and whether ``min`` or ``max`` is best.
        value: the best value of it so far.
        seconds: that it took.
        summary: the metrics of its best epoch and of its test, by ``split/name``.
        record: parameters, multiply_adds, best_epoch, started, command, error.
        read_curves: gives its curves; called once, when they are asked for.
        folder: where it lies; None on a server.
    """

    name: str
    place: str
    config: Mapping[str, Any]
    status: str
    metric: str
    mode: str
    value: float | None
    seconds: float | None
    summary: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    read_curves: Callable[[], Mapping[str, Curve]] = field(default=dict, repr=False, compare=False)
    folder: Path | None = None

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """The metrics of every epoch, and ``lr``, by name."""
        return self.read_curves()

    def size(self, name: str) -> float:
        """Return a number that a run can be sorted by.

        Args:
            name: ``parameters``, ``multiply_adds``, or a key of the config such as ``datamodule.train_size``.

        Raises:
            UserError: if there is none of this name, or if it is no number.
        """
        known = {key: float(value) for key, value in self.config.items() if is_number(value)}
        if name not in self.config and name not in SIZES:
            raise UserError(f"{name}: unknown size. {nearest(name, [*SIZES, *known])}")
        value = self.record.get(name) if name in SIZES else known.get(name)
        if value is None:
            raise UserError(f"{self.place}: {name} is no number")
        return float(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Remarks:
    """What was left out while reading, each kind said once, with the folders that it concerns."""

    def __init__(self) -> None:
        self._found: dict[str, list[Path]] = {}

    def add(self, what: str, path: Path) -> None:
        self._found.setdefault(what, []).append(path)

    def __str__(self) -> str:
        return "\n".join(f"{what}: {_few(paths)}" for what, paths in self._found.items())

    def __bool__(self) -> bool:
        return bool(self._found)


def _few(paths: Sequence[Path]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(map(_shown, paths[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def read_runs(*paths: Path, remarks: Remarks | None = None) -> list[RecordedRun]:
    """Return the runs in some folders, in the order of their names, each once.

    Args:
        paths: run folders, sweeps, or any folders that hold such.
        remarks: gets what had to be left out.

    Raises:
        UserError: if a folder does not exist or holds no run.
    """
    remarks = Remarks() if remarks is None else remarks
    folders: dict[Path, None] = {}
    for path in paths:
        found = list(_run_folders(path))
        if not found:
            raise UserError(f"{path}: there are no runs in this folder; a sweep's is outputs/sweeps/<name>")
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
        near = nearest(path.name, (f.name for f in path.parent.iterdir() if f.is_dir())) if path.parent.is_dir() else ""
        raise UserError(f"{path}: there is no such folder. {near}".rstrip())
    for folder, below, files in os.walk(path):
        if "config.yaml" in files:
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _read(folder: Path, several: bool, remarks: Remarks) -> RecordedRun | None:
    """Return a run, or None if the folder holds none."""
    try:
        config = read_config((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        remarks.add("left out, as config.yaml cannot be read", folder)
        return None
    try:
        record = json.loads((folder / "run.json").read_bytes())
        if not isinstance(record, dict):
            raise ValueError("not a record")
    except OSError:
        if not (folder / "metrics.jsonl").is_file():
            remarks.add("left out, as there is neither run.json nor metrics.jsonl", folder)
            return None
        remarks.add("run.json is missing, so the status is unknown", folder)
        record = {}
    except ValueError:
        remarks.add("run.json is damaged, so the status is unknown", folder)
        record = {}
    metric = record.get("monitor") or config.get("monitor") or "val/loss"
    mode = record.get("mode") or direction_of(metric)
    status = str(record.get("status") or "unknown")
    if status == "running" and not RunFolder(folder, record).alive:
        status = "interrupted"
    curves: Callable[[], Mapping[str, Curve]] = partial(_read_curves, folder, remarks)
    summary = _numbers(record.get("best")) | _numbers(record.get("final"))
    value, epoch = record.get("value"), record.get("best_epoch")
    if status != "finished":  # its record is written at the end
        known = curves()
        curves = partial(_given, known)
        if metric in known:
            epoch, summary = best_of(known, metric, mode)
            value = summary.get(metric)
    kept: dict[str, Any] = {key: record.get(key) for key in _KEPT} | {"best_epoch": epoch}
    return RecordedRun(
        name=f"{folder.parent.name}/{folder.name}" if several else folder.name,
        place=_shown(folder),
        config={key: value for key, value in config.items() if key.partition(".")[0] not in _BESIDE},
        status=status,
        metric=metric,
        mode=mode,
        value=value,
        seconds=record.get("seconds"),
        summary=summary,
        record=kept,
        read_curves=curves,
        folder=folder,
    )


def _given(curves: Mapping[str, Curve]) -> Mapping[str, Curve]:
    return curves


def _numbers(entries: Any) -> dict[str, float]:
    return {name: float(value) for name, value in (entries or {}).items() if is_number(value) and "/" in name}


def best_of(curves: Mapping[str, Curve], metric: str, mode: str) -> tuple[int | None, dict[str, float]]:
    """Return the best epoch of a metric, from 0, and the value of every metric then; of equals, the first.

    Args:
        curves: of a run.
        metric, mode: what is best.
    """
    curve = curves.get(metric, Curve((), ()))
    sign = 1 if mode == "min" else -1
    scored = [(sign * value if isfinite(value) else inf, epoch) for epoch, value in zip(*curve, strict=True)]
    if not scored or min(scored)[0] == inf:
        return None, {}
    best = min(scored)[1]
    found = {name: c.values[c.epochs.index(best)] for name, c in curves.items() if best in c.epochs}
    return best - 1, _numbers(found)


# ---- the files ---------------------------------------------------------------------------------------------------


def _read_curves(folder: Path, remarks: Remarks) -> dict[str, Curve]:
    entries = read_metrics(folder, damaged=partial(remarks.add, "lines of metrics.jsonl are torn and left out", folder))
    return curves_of(entries)


def curves_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return what was logged once an epoch, by metric, and ``lr``; of an epoch that was logged twice, the last.

    Args:
        entries: as `read_metrics` gives them.
    """
    found: dict[str, dict[int, float]] = {}
    for entry in entries:
        epoch = entry.get("epoch")
        if not isinstance(epoch, int):
            continue
        for name, value in entry.items():
            points = found.get(name)
            if points is None:
                if not _each_epoch(name):
                    continue
                points = found[name] = {}
            points[epoch + 1] = value
    return {name: Curve(array("l", points), array("d", map(_float, points.values()))) for name, points in found.items()}


def _each_epoch(name: str) -> bool:
    split = name.partition("/")[0]
    return name == "lr" or (split in SPLITS and split != "test" and not name.endswith("_step"))


def _float(value: Any) -> float:
    return float(value) if is_number(value) else nan


def read_config(text: str) -> dict[str, Any]:
    """Return a config, a value a dotted key.

    The sections of a block mapping are independent of each other, unless an anchor of one is used in another: so each is
    parsed by itself, once for all runs that have it.

    Args:
        text: of config.yaml.

    Raises:
        ValueError: if it holds no mapping.
        yaml.YAMLError: if it is no YAML.
    """
    if "&" in text or "---" in text:
        return dict(_flat(yaml.load(text, _Loader)))
    try:
        return {key: value for part in re.split(r"\n(?=[^\s#-])", text.strip()) for key, value in _section(part)}
    except (yaml.YAMLError, ValueError):  # a hand-written one may be laid out in another way
        return dict(_flat(yaml.load(text, _Loader)))


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=8192)
def _section(text: str) -> tuple[tuple[str, Any], ...]:
    return tuple(_flat(yaml.load(text, _Loader)))


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        raise ValueError("no mapping")
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested config as `RecordedRun` holds it: a value a dotted key, without how it is recorded."""
    return {key: value for key, value in _flat(config) if key.partition(".")[0] not in _BESIDE}
