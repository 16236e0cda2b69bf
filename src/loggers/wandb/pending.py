"""Find the runs whose records are not uploaded yet."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core.errors import UserError, first_line
from src.core.files import is_file_below, walk
from src.core.wandb_account import RUN_ID
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """A run that is not on the server as a whole.

    Args:
        folder: the run's.
        sessions: the ``.wandb`` files that are not there, in the order of time.
        complete: whether there is nothing to upload beside them.
    """

    folder: Path
    sessions: tuple[Path, ...]
    complete: bool = True

    @property
    def size(self) -> int:
        """Bytes to upload."""
        return sum(file.stat().st_size for file in self.sessions)

    @property
    def left(self) -> tuple[Path, ...]:
        """The sessions that are still not on the server."""
        return tuple(file for file in self.sessions if not marker(file).exists())


def marker(session: Path) -> Path:
    """Return the file that says that a session is on the server."""
    return session.with_name(f"{session.name}.synced")


def sync_state(session: Path) -> Path:
    """Return the file in which the client keeps the step at which a session begins on the server."""
    return session.with_name(f"{session.name}.syncstate")


def sessions(folder: Path) -> list[Path]:
    """Return the files of all sessions of a run, in the order of time."""
    if (folder / "wandb").is_symlink():
        return []
    found = (folder / "wandb").glob("*run-*/run-*.wandb")
    files = [file for file in found if not file.parent.is_symlink() and is_file_below(file.parent, file.name)]
    files = [file for file in files if re.fullmatch(RUN_ID, run_id(file))]
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))


def recorded_state(folder: RunFolder) -> dict[str, Any]:
    """Return what run.json records about W&B; empty if it is damaged."""
    state = folder.record.get("wandb")
    return dict(state) if isinstance(state, dict) else {}


def waiting_in(folder: Path) -> Waiting | None:
    """Return what of a run waits for its upload; None if nothing does."""
    left = tuple(file for file in sessions(folder) if not marker(file).exists())
    complete = bool(recorded_state(RunFolder.open(folder)).get("complete", True))
    return Waiting(folder, left, complete) if left or not complete else None


def find(paths: Sequence[Path]) -> Iterator[Waiting]:
    """Yield the runs in some folders that wait for their upload, those that are running too.

    Raises:
        UserError: if there is no such folder.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder")
    places = (Path(folder) for path in paths for folder, below, _ in walk(path) if "wandb" in below)
    found = {place.absolute() for place in places if any((place / "wandb").glob("*run-*/run-*.wandb"))}
    for folder in sorted(found):
        if not (folder / "config.yaml").is_file():
            continue
        try:
            waiting = waiting_in(folder)
        except UserError as error:
            log.warning("%s is left out: %s", folder, first_line(error))
            continue
        if waiting is not None:
            yield waiting


def run_id(session: Path) -> str:
    """Return the id of the W&B run that a session is of."""
    return session.stem.removeprefix("run-")
