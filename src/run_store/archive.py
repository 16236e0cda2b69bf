"""Find, list, tag, archive and delete stored runs."""

import logging
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from src.core.console import display_path
from src.core.errors import UserError, nearest
from src.core.files import identity_of, remove_below, remove_folder_below, remove_tree_below, walk
from src.run_store.filters import condition_values, matching, parse_conditions
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredRun:
    """A run on disk.

    Args:
        folder: the folder of the run.
        identity: what `src.core.files.identity_of` returns for the folder.
    """

    folder: RunFolder
    identity: tuple[int, int]

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> "StoredRun":
        """Read a run; see `RunFolder.open`."""
        folder = RunFolder.open(path, root)
        try:
            return cls(folder, identity_of(folder.path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def place(self) -> tuple[Path, Path]:
        """The folder that the user named, or the parent of a run that the user named, and the path of the run below it."""
        root = self.folder.root if self.folder.root not in (None, self.path) else self.path.parent
        assert root is not None
        return root, self.path.relative_to(root)

    @property
    def record(self) -> dict[str, Any]:
        return self.folder.record

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config of the run; empty, with a warning, if it cannot be read."""
        try:
            return self.folder.config()
        except UserError as error:
            log.warning("%s", str(error).splitlines()[0])
            return {}

    @cached_property
    def status(self) -> str:
        """The status of the run; a run that was killed is ``interrupted``."""
        is_killed = self.record["status"] == "running" and not self.folder.alive
        return "interrupted" if is_killed else str(self.record["status"])

    @property
    def sweep(self) -> str | None:
        """The name of the sweep that the run belongs to; None outside of a sweep."""
        parent = self.path.parent
        return parent.name if (parent / "ledger.jsonl").is_file() else None

    @property
    def id(self) -> str:
        """The shortest name of the run: the last part of its folder's name."""
        return self.path.name.rpartition("-" if self.sweep is None else "_")[2]

    @property
    def tags(self) -> list[str]:
        return list(self.record.get("tags", self.config.get("tags")) or [])

    @property
    def notes(self) -> str | None:
        return self.record.get("notes", self.config.get("notes"))

    def option(self, group: str) -> str:
        """Return the option chosen for a config group, such as ``mlp`` for ``model``; ``?`` if there is none."""
        return (self.config.get(group) or {}).get("name") or "?"

    @property
    def archived(self) -> bool:
        return bool(self.record.get("archived"))

    @property
    def names(self) -> set[str]:
        """The names by which a user may refer to the run, besides its path."""
        ids = {self.path.name, self.id, self.record.get("config_hash"), (self.record.get("wandb") or {}).get("id")}
        return {name for name in ids if name}

    @property
    def facts(self) -> dict[str, Any]:
        """The values that a condition can test."""
        return condition_values(self.config, self.record) | {
            "status": self.status,
            "id": self.id,
            "sweep": self.sweep,
            "archived": self.archived,
            "notes": self.notes,
        }


def list_runs(outputs: Path) -> list[StoredRun]:
    """Return all runs below a folder, the oldest first. Log a warning for each run that cannot be opened.

    Raises:
        UserError: if there is no such folder.
    """
    if not outputs.is_dir():
        raise UserError(f"{outputs}: there is no such folder; runs are stored in paths.outputs, by default outputs")
    runs = []
    for folder in sorted(Path(path) for path, folders, files in walk(outputs) if "run.json" in {*folders, *files}):
        if folder.name.startswith(_DELETED) or not os.path.lexists(folder / "config.yaml"):
            continue
        try:
            runs.append(StoredRun.open(folder, root=outputs.absolute()))
        except UserError as error:
            log.warning("left out: %s", error)
    return sorted(runs, key=lambda run: str(run.record.get("started")))


def filter_runs(runs: Sequence[StoredRun], conditions: Sequence[str]) -> list[StoredRun]:
    """Return the runs that match all conditions.

    Raises:
        UserError: if a text is not a condition, or if no run has the key of a condition.
    """
    matches = matching(parse_conditions(conditions), [run.facts for run in runs])
    return [run for run, is_match in zip(runs, matches, strict=True) if is_match]


def find_runs(references: Sequence[str], outputs: Path) -> list[StoredRun]:
    """Return the runs that the references select.

    Args:
        references: each the path of a run or a sweep, the id of a run, the hash of a config, the name of a sweep, or a
            condition (`src.run_store.filters`).
        outputs: the folder that is searched.

    Raises:
        UserError: if a reference matches no run, or matches several runs that are not a sweep.
    """
    selected: dict[Path, StoredRun] = {}
    all_runs: list[StoredRun] | None = None
    for reference in references:
        if not reference.strip():
            raise UserError("an empty name selects no run")
        path = Path(reference)
        if (path / "config.yaml").is_file():
            selected[path.absolute()] = StoredRun.open(path)
            continue
        if path.is_dir():
            runs = list_runs(path.absolute())
        else:
            all_runs = list_runs(outputs) if all_runs is None else all_runs
            runs = _find(reference, all_runs, outputs)
        if not runs:
            raise UserError(f"{reference}: there are no runs in this folder")
        selected |= {run.path: run for run in runs}
    return list(selected.values())


def _find(reference: str, all_runs: Sequence[StoredRun], outputs: Path) -> list[StoredRun]:
    """Return the runs that match a condition, belong to a sweep of this name, or have this name."""
    if any(sign in reference for sign in "=<>"):
        if runs := filter_runs(all_runs, [reference]):
            return runs
        raise UserError(f"{reference}: no run in {display_path(outputs.absolute())} matches")
    if runs := [run for run in all_runs if run.sweep == reference]:
        return runs
    runs = [run for run in all_runs if reference in run.names]
    if len(runs) > 1:
        paths = ", ".join(display_path(run.path) for run in runs[:5])
        raise UserError(f"{reference}: {len(runs)} runs have this name: {paths}")
    if not runs:
        names = {run.id for run in all_runs} | {run.path.name for run in all_runs}
        sweeps = {run.sweep for run in all_runs if run.sweep}
        raise UserError(f"{reference}: no run has this name. {nearest(reference, names | sweeps)}")
    return runs


def update_record(run: StoredRun, **entries: Any) -> None:
    """Change entries of the record of a run that is not running.

    Raises:
        UserError: if the run is running, or if its record cannot be written.
    """
    with run.folder.locked():
        try:
            run.folder.update(**entries)
        except OSError as error:
            raise UserError(f"{run.path / 'run.json'}: cannot be written: {error.strerror}") from error


def set_archived(run: StoredRun, archived: bool) -> None:
    """Hide a run from lists, or show it again. Its files are not moved."""
    update_record(run, archived=datetime.now(UTC).isoformat(timespec="seconds") if archived else None)


def folder_size(path: Path) -> int:
    """Return the size of a folder in bytes; a file with two hard links counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for folder, _, names in walk(path):
        for name in names:
            with suppress(OSError):
                info = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(info.st_mode):
                    sizes[info.st_dev, info.st_ino] = info.st_size
    return sum(sizes.values())


SWEEP_FILES = ("ledger.jsonl", "states.jsonl", "study.journal", "report.html", ".lock")
"""Files of a sweep, which are of no use without its runs."""


_DELETED = ".deleted-"
"""Prefix of the name of a run folder while it is deleted."""


def sweeps_left_empty(runs: Sequence[StoredRun]) -> list[Path]:
    """Return the folders of the sweeps that have no runs left after the given runs are deleted."""
    paths = {run.path for run in runs}
    sweeps = {run.path.parent for run in runs if run.sweep is not None}
    return sorted(
        sweep for sweep in sweeps if not any(file.parent not in paths for file in sweep.glob("*/config.yaml"))
    )


def delete_runs(runs: Sequence[StoredRun]) -> None:
    """Delete run folders, the own files of sweeps that have no runs left, and parent folders that are empty.

    Raises:
        UserError: if a run is running or read-only, in which case none is deleted, or if a run cannot be deleted.
    """
    for run in runs:
        if run.folder.alive:
            raise UserError(f"{display_path(run.path)}: this run is running")
        for subfolder, _, _ in () if run.path.is_symlink() else walk(run.path):
            if not os.access(subfolder, os.W_OK | os.X_OK):
                raise UserError(f"{display_path(Path(subfolder))}: this folder is read-only, so nothing was deleted")
    emptied = sweeps_left_empty(runs)
    for run in runs:
        partial = f"{_DELETED}{secrets.token_hex(4)}-{run.path.name[:200]}"
        try:
            remove_tree_below(*run.place, run.identity, partial)
        except (OSError, RecursionError) as error:
            renamed = run.path.with_name(partial)
            reason = "its folders are nested too deep"
            if isinstance(error, OSError):
                reason = f"{error.filename or run.path}: {error.strerror}"
            if not renamed.exists():
                raise UserError(f"{run.path}: cannot be deleted: {reason}") from error
            raise UserError(
                f"{run.path}: cannot be deleted completely: {reason}. Delete the rest by hand: {renamed}"
            ) from error
    parents = {run.path.parent: run.place for run in runs}
    for parent, (root, path) in sorted(parents.items()):
        if root == parent:
            root, path = parent.parent, Path(parent.name, path)
        if parent in emptied:
            for name in SWEEP_FILES:
                with suppress(OSError, UserError):
                    remove_below(root, path.parent / name)
            remove_folder_below(root, path.parent / "plots")
        for folder in sorted(parent.glob(f"{_DELETED}*")):
            log.warning(
                "%s: an earlier delete was stopped and left this folder; delete it by hand", display_path(folder)
            )
        remove_folder_below(root, path.parent)
