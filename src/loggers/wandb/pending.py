"""Find runs that are not completely uploaded to Weights & Biases."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core.errors import UserError, first_line
from src.core.files import is_file_below, walk, write_below
from src.core.wandb_account import RUN_ID
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingUpload:
    """A run that is not completely on the server.

    Args:
        folder: folder of the run.
        sessions: the ``.wandb`` files that are not on the server, in chronological order.
        complete: whether these sessions are all that is missing.
    """

    folder: Path
    sessions: tuple[Path, ...]
    complete: bool = True

    @property
    def size(self) -> int:
        """Number of bytes to upload."""
        return sum(file.stat().st_size for file in self.sessions)

    @property
    def left(self) -> tuple[Path, ...]:
        """The sessions that have still not been uploaded."""
        return tuple(file for file in self.sessions if not marker(file).exists())


def marker(session: Path) -> Path:
    """Return the path of the file whose existence marks a session as uploaded."""
    return session.with_name(f"{session.name}.synced")


def sync_state(session: Path) -> Path:
    """Return the path of the file in which the client stores the step at which a session begins on the server."""
    return session.with_name(f"{session.name}.syncstate")


def sessions(folder: Path) -> list[Path]:
    """Return the ``.wandb`` files of all sessions of a run, in chronological order."""
    if (folder / "wandb").is_symlink():
        return []
    paths = (folder / "wandb").glob("*run-*/run-*.wandb")
    files = [path for path in paths if not path.parent.is_symlink() and is_file_below(path.parent, path.name)]
    files = [file for file in files if re.fullmatch(RUN_ID, run_id(file))]
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))


def recorded_state(folder: RunFolder) -> dict[str, Any]:
    """Return the entries of run.json about W&B; an empty dictionary if there are none."""
    state = folder.record.get("wandb")
    return dict(state) if isinstance(state, dict) else {}


def pending_upload(folder: Path) -> PendingUpload | None:
    """Return what is missing of a run on the server; None if nothing is."""
    missing = tuple(file for file in sessions(folder) if not marker(file).exists())
    complete = bool(recorded_state(RunFolder.open(folder)).get("complete", True))
    return PendingUpload(folder, missing, complete) if missing or not complete else None


def find_pending(paths: Sequence[Path]) -> Iterator[PendingUpload]:
    """Yield the runs in some folders that are not completely uploaded, including running ones.

    Raises:
        UserError: if there is no such folder.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder")
    candidates = (Path(folder) for path in paths for folder, subfolders, _ in walk(path) if "wandb" in subfolders)
    folders = {folder.absolute() for folder in candidates if any((folder / "wandb").glob("*run-*/run-*.wandb"))}
    for folder in sorted(folders):
        if not (folder / "config.yaml").is_file():
            continue
        try:
            upload = pending_upload(folder)
        except UserError as error:
            log.warning("%s is left out: %s", folder, first_line(error))
            continue
        if upload is not None:
            yield upload


def run_id(session: Path) -> str:
    """Return the id of the W&B run to which a session belongs."""
    return session.stem.removeprefix("run-")


def mark_sent(session: Path) -> None:
    """Record that a session was uploaded. A link under the name of the marker is replaced."""
    write_beside(session, marker(session).name, b"")


def write_beside(session: Path, name: str, contents: bytes) -> None:
    """Write a file beside a session, which is in a folder of ``wandb/`` of a run folder; follow no link below that."""
    run_folder = session.parents[2]
    write_below(run_folder, session.parent.relative_to(run_folder) / name, contents)
