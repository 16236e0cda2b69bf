"""Runs as things that are kept: found, listed, tagged, archived, deleted, exported."""

import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from src.core.console import shown
from src.core.errors import UserError, nearest
from src.core.files import remove_below, walk
from src.run_store.filters import known, matching, parse
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptRun:
    """A run on disk."""

    folder: RunFolder
    outputs: Path = field(compare=False)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def record(self) -> dict[str, Any]:
        return self.folder.record

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config of the run; empty, with a warning, where it cannot be read."""
        try:
            return self.folder.config()
        except UserError as error:
            log.warning("%s", str(error).splitlines()[0])
            return {}

    @cached_property
    def status(self) -> str:
        """What became of the run; one that was killed is interrupted."""
        recorded = str(self.record.get("status") or "unknown")
        return "interrupted" if recorded == "running" and not self.folder.alive else recorded

    @property
    def sweep(self) -> str | None:
        """The name of the sweep that the run is a job of."""
        parent = self.path.parent
        return parent.name if (parent / "ledger.jsonl").is_file() else None

    @property
    def id(self) -> str:
        """The shortest name of the run: the end of its folder's."""
        return self.path.name.rpartition("-" if self.sweep is None else "_")[2]

    @property
    def tags(self) -> list[str]:
        tags = self.record["tags"] if "tags" in self.record else self.config.get("tags")
        return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []

    @property
    def notes(self) -> str | None:
        notes = self.record["notes"] if "notes" in self.record else self.config.get("notes")
        return notes if isinstance(notes, str) else None

    def option(self, group: str) -> str:
        """Return the name of the option that a group of the config has, such as ``mlp`` of ``model``; ``?`` if it has none."""
        section = self.config.get(group)
        return str(section.get("name", "?")) if isinstance(section, dict) else "?"

    @property
    def archived(self) -> bool:
        return bool(self.record.get("archived"))

    @property
    def names(self) -> set[str]:
        """Everything that a person may call the run by, beside its path."""
        ids = {self.path.name, self.id, self.record.get("config_hash"), (self.record.get("wandb") or {}).get("id")}
        return {name for name in ids if name}

    @property
    def facts(self) -> dict[str, Any]:
        """What a condition may ask of the run."""
        return known(self.config, self.record) | {
            "status": self.status,
            "id": self.id,
            "sweep": self.sweep,
            "archived": self.archived,
            "notes": self.notes,
        }


def runs_in(outputs: Path) -> list[KeptRun]:
    """Return all runs below a folder, the oldest first; one that cannot be opened is named in a warning.

    Raises:
        UserError: if there is no such folder.
    """
    if not outputs.is_dir():
        raise UserError(f"{outputs}: there is no such folder; runs are kept in paths.outputs, by default outputs")
    runs = []
    for folder in sorted(Path(place) for place, below, files in walk(outputs) if "run.json" in {*below, *files}):
        if folder.name.startswith(_DELETED) or not os.path.lexists(folder / "config.yaml"):
            continue
        try:
            opened = RunFolder.open(folder)
            opened.root = outputs.absolute()
            runs.append(KeptRun(opened, outputs))
        except UserError as error:
            log.warning("left out: %s", error)
    return sorted(runs, key=lambda run: str(run.record.get("started")))


def select(runs: Sequence[KeptRun], conditions: Sequence[str]) -> list[KeptRun]:
    """Return the runs that fulfil all conditions.

    Raises:
        UserError: for what is no condition, and for a key that no run knows.
    """
    fits = matching(parse(conditions), [run.facts for run in runs])
    return [run for run, good in zip(runs, fits, strict=True) if good]


def named(words: Sequence[str], outputs: Path) -> list[KeptRun]:
    """Return the runs that some words name: a path of a run or a sweep, an id, the hash of a config, the name of a sweep,
    or a condition (`src.run_store.filters`).

    Raises:
        UserError: if a word names nothing, or several runs that are no sweep.
    """
    found: dict[Path, KeptRun] = {}
    everything: list[KeptRun] | None = None
    for word in words:
        if not word.strip():
            raise UserError("an empty word names no run")
        path = Path(word)
        if (path / "config.yaml").is_file():
            found[path.absolute()] = KeptRun(RunFolder.open(path), outputs)
            continue
        if path.is_dir():
            runs = runs_in(path.absolute())
        else:
            everything = runs_in(outputs) if everything is None else everything
            runs = _called(word, everything, outputs)
        if not runs:
            raise UserError(f"{word}: there are no runs in this folder")
        found |= {run.path: run for run in runs}
    return list(found.values())


def _called(word: str, everything: Sequence[KeptRun], outputs: Path) -> list[KeptRun]:
    if any(sign in word for sign in "=<>"):
        if runs := select(everything, [word]):
            return runs
        raise UserError(f"{word}: no run in {shown(outputs.absolute())} fulfils this")
    if runs := [run for run in everything if run.sweep == word]:
        return runs
    runs = [run for run in everything if word in run.names]
    if len(runs) > 1:
        raise UserError(f"{word}: {len(runs)} runs are called so: {', '.join(shown(run.path) for run in runs[:5])}")
    if not runs:
        names = {run.id for run in everything} | {run.path.name for run in everything}
        sweeps = {run.sweep for run in everything if run.sweep}
        raise UserError(f"{word}: no run is called so. {nearest(word, names | sweeps)}")
    return runs


def change(run: KeptRun, **entries: Any) -> None:
    """Write entries into the record of a run that does not run.

    Raises:
        UserError: if it does, or if its record cannot be written.
    """
    with run.folder.held():
        try:
            run.folder.update(**entries)
        except OSError as error:
            raise UserError(f"{run.path / 'run.json'}: cannot be written: {error.strerror}") from error


def archive(run: KeptRun, back: bool = False) -> None:
    """Hide a run from lists, or show it again; its files stay where they are."""
    change(run, archived=None if back else datetime.now(UTC).isoformat(timespec="seconds"))


def size(path: Path) -> int:
    """Return the bytes of a folder; a file with two names counts once."""
    files = {(info.st_dev, info.st_ino): info.st_size for info in _files(path)}
    return sum(files.values())


def _files(path: Path) -> Iterator[Any]:
    for folder, _, names in walk(path):
        for name in names:
            with suppress(OSError):
                info = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(info.st_mode):
                    yield info


SWEEP_FILES = ("ledger.jsonl", "states.jsonl", "study.journal", "report.html", ".lock")
"""Files of a sweep, which are of no use without its runs."""


_DELETED = ".deleted-"
"""How the name of a run folder begins while it is deleted."""


def emptied_sweeps(runs: Sequence[KeptRun]) -> list[Path]:
    """Return the sweeps that have no runs any more when some are deleted."""
    paths = {run.path for run in runs}
    sweeps = {run.path.parent for run in runs if run.sweep is not None}
    return sorted(
        sweep for sweep in sweeps if not any(file.parent not in paths for file in sweep.glob("*/config.yaml"))
    )


def delete(runs: Sequence[KeptRun]) -> None:
    """Delete run folders, and nothing else but the own files of sweeps that then have no runs, and folders that are empty.

    Raises:
        UserError: if one of them is running, and then none is deleted; or if one cannot be deleted.
    """
    for run in runs:
        if run.folder.alive:
            raise UserError(f"{shown(run.path)}: this run is running")
    emptied = emptied_sweeps(runs)
    for run in runs:
        if run.path.is_symlink():  # its target is no run that was listed
            run.path.unlink()
            continue
        gone = run.path.with_name(f"{_DELETED}{secrets.token_hex(4)}-{run.path.name[:200]}")
        try:
            run.path.rename(gone)  # at once, so that nothing half deleted is left under its name
        except OSError as error:
            raise UserError(f"{run.path}: cannot be deleted: {error.strerror}") from error
        try:
            shutil.rmtree(gone)
        except (OSError, RecursionError) as error:
            what = (
                f"{error.filename or gone}: {error.strerror}"
                if isinstance(error, OSError)
                else "its folders are nested too deep"
            )
            raise UserError(
                f"{run.path}: cannot be deleted as a whole: {what}. Delete what is left of it by hand: {gone}"
            ) from error
    for sweep in emptied:
        for name in SWEEP_FILES:
            with suppress(OSError, UserError):
                remove_below(sweep, name)
        with suppress(OSError):  # there are pictures in it, or it is a link
            (sweep / "plots").rmdir()
    for parent in sorted({run.path.parent for run in runs}):
        for left in sorted(parent.glob(f"{_DELETED}*")):
            log.warning("%s: an earlier delete was stopped and left this folder; delete it by hand", shown(left))
        with suppress(OSError):  # there is something else in it
            parent.rmdir()
