"""Uploading what Weights & Biases kept on disk, by the client's own ``wandb sync``.

A session of a run is a folder wandb/offline-run-<time>-<id> or wandb/run-<time>-<id>; a resumed run has several. The client
writes the step at which a session began into its ``.syncstate`` and sends a row that it sends again under its old step, so
that an upload which was interrupted can be started anew; it leaves a ``.synced`` when a session is on the server.
"""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from src.errors import UserError
from src.tracking.run_folder import RunFolder

log = logging.getLogger(__name__)

_BATCH = 50
"""Runs that one process of the client uploads."""

_CLIENT = "from src.sweeping.lifeline import end_with_parent; end_with_parent(); from wandb.cli.cli import cli; cli()"


@dataclass(frozen=True)
class Waiting:
    """A run with sessions that are not on the server.

    Args:
        folder: the run's.
        sessions: their ``.wandb`` files, in the order of time.
    """

    folder: Path
    sessions: tuple[Path, ...]

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


def sessions(folder: Path) -> list[Path]:
    """Return the files of all sessions of a run, in the order of time."""
    files = [file for file in (folder / "wandb").glob("*run-*/run-*.wandb") if not file.parent.is_symlink()]
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))


def waiting_in(folder: Path) -> Waiting | None:
    """Return what of a run waits for its upload; None if nothing does."""
    left = [file for file in sessions(folder) if not marker(file).exists()]
    return Waiting(folder, tuple(left)) if left else None


def find(paths: Sequence[Path]) -> Iterator[Waiting]:
    """Yield the runs in some folders that wait for their upload, those that are running too.

    Raises:
        UserError: if there is no such folder.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder")
    found = {file.parents[2].absolute() for path in paths for file in path.rglob("wandb/*run-*/run-*.wandb")}
    for folder in sorted(found):
        if (folder / "config.yaml").is_file() and (waiting := waiting_in(folder)) is not None:
            yield waiting


def upload(
    runs: Sequence[Waiting],
    done: Callable[[Waiting], None] = lambda run: None,
    timeout: float | None = None,
    held: bool = False,
) -> list[tuple[Waiting, str]]:
    """Upload runs, and return those that did not arrive as a whole with the client's last word about them.

    Args:
        runs: that do not run; their folders are locked meanwhile.
        done: called with each run that has arrived.
        timeout: seconds after which to give up; None never does.
        held: this process has the locks already.
    """
    end = None if timeout is None else time.monotonic() + timeout
    failed: list[tuple[Waiting, str]] = []
    for start in range(0, len(runs), _BATCH):
        batch = runs[start : start + _BATCH]
        with ExitStack() as locks:
            folders = {run.folder: RunFolder.open(run.folder) for run in batch}
            for folder in () if held else folders.values():
                locks.enter_context(folder.held())
            said = _client(batch, done, end)
            for run in batch:
                _accept_torn(run, said)
                if run.left:
                    failed.append((run, said.strip().rpartition("\n")[2]))
                elif address := _address(said, run):
                    folder = folders[run.folder]
                    folder.update(wandb={**(folder.record.get("wandb") or {}), "url": address})
    return failed


def _client(runs: Sequence[Waiting], done: Callable[[Waiting], None], end: float | None) -> str:
    """Run the client until it ends or the time is up, and return what it said."""
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
    files = [str(file) for run in runs for file in run.sessions]
    words = [sys.executable, "-c", _CLIENT, "sync", "--include-online", *files]
    open_runs = list(runs)
    with TemporaryFile("w+") as said:
        client = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment | {"WANDB_SILENT": "false"}
        )
        try:
            running = True
            while running:
                try:
                    client.wait(0.1)
                    running = False
                except subprocess.TimeoutExpired:
                    running = end is None or time.monotonic() < end
                for run in [run for run in open_runs if not run.left]:
                    open_runs.remove(run)
                    done(run)
        finally:
            client.kill()
            client.wait()
        said.seek(0)
        return said.read()


def _accept_torn(run: Waiting, said: str) -> None:
    """Mark the sessions whose file ends within a record, as the process that wrote it was killed: all that can be read of
    them has been sent.
    """
    for file in run.left:
        if re.search(rf"{re.escape(file.parent.name)}\": (.*incomplete record|transactionlog: .*EOF)", said):
            marker(file).touch()
            log.warning("%s: it ends within a record, what came before is uploaded", file)


def _address(said: str, run: Waiting) -> str | None:
    """Return where the client says that a run can be seen."""
    id = run.sessions[0].stem.removeprefix("run-")
    found = re.search(rf"View run .* at (\S+/runs/{re.escape(id)})\b", said)
    return found[1] if found else None
