"""Runs read back from a folder of them, for comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError, nearest
from src.tracking.run_folder import RunFolder

_BESIDE = ("paths", "resume", "tags", "notes", "logger", "sweep", "callbacks")
"""Sections of a config that say where and how a run is recorded."""

SIZES = ("parameters", "multiply_adds")
"""Sizes of a run that its record holds; any other is a key of its config."""


@dataclass(frozen=True)
class RecordedRun:
    """One run of a folder, as a ranking wants it.

    Args:
        folder: the run's.
        overrides: its config, a word ``key=value`` each.
        status, metric, mode, value, seconds: from its record.
        record: run.json.
    """

    folder: Path
    overrides: Sequence[str]
    status: str
    metric: str
    mode: str
    value: float | None
    seconds: float | None
    record: Mapping[str, Any]

    def size(self, name: str) -> float:
        """Return a number that a run can be sorted by.

        Args:
            name: ``parameters``, ``multiply_adds``, or a key of the config such as ``datamodule.train_size``.

        Raises:
            UserError: if there is none of this name, or if it is no number.
        """
        known = dict(word.split("=", 1) for word in self.overrides)
        if name not in known and name not in SIZES:
            raise UserError(
                f"{name}: unknown size. {nearest(name, [*SIZES, *(k for k, v in known.items() if _number(v))])}"
            )
        value = self.record.get(name) if name in SIZES else _number(known[name])
        if value is None:
            raise UserError(f"{self.folder}: {name} is no number")
        return float(value)


def read_runs(path: Path) -> list[RecordedRun]:
    """Return the runs in a folder, such as a sweep's, in the order of their names.

    Raises:
        UserError: if there are none.
    """
    if not path.is_dir():
        near = nearest(path.name, (folder.name for folder in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise UserError(f"{path}: there is no such folder. {near}".rstrip())
    folders = sorted(file.parent for file in path.glob("*/config.yaml"))
    if not folders:
        raise UserError(f"{path}: there are no runs in this folder; a sweep's is outputs/sweeps/<name>")
    return [_read(folder) for folder in folders]


def read_wandb(project: str) -> list[RecordedRun]:
    """Return the runs of a Weights & Biases project.

    Args:
        project: ``entity/project``.

    Raises:
        UserError: if it cannot be read.
    """
    from src.tracking.wandb_runs import read_project

    return [_recorded(Path(run.name), run.config, run.record) for run in read_project(project)]


def _read(path: Path) -> RecordedRun:
    run = RunFolder.open(path)
    return _recorded(path, run.config(), run.record)


def _recorded(path: Path, whole: Mapping[str, Any], record: Mapping[str, Any]) -> RecordedRun:
    config = {key: value for key, value in whole.items() if key not in _BESIDE}
    return RecordedRun(
        path,
        list(_words(config)),
        record.get("status", "unknown"),
        record.get("monitor") or "",
        record.get("mode", "min"),
        record.get("value"),
        record.get("seconds"),
        record,
    )


def _words(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _words(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={'null' if value is None else value}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
