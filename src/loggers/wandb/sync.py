"""Upload recorded runs to Weights & Biases."""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from src.core.errors import UserError, first_line
from src.core.files import write_below
from src.core.wandb_account import Account
from src.loggers.wandb.connection import refuse_foreign_settings
from src.loggers.wandb.pending import Waiting, marker, recorded_state, run_id, sessions, sync_state, waiting_in
from src.run_store.run_folder import RunFolder, read_record

log = logging.getLogger(__name__)
_BATCH = 50
"""Runs that one process of the client uploads."""
_BATCH_BYTES = 2**30
"""Bytes of copies after which no further run is added to those that one process uploads."""
_PATIENCE = 600.0
"""Seconds for what a run lacks."""
BUSY = "another process works on it"
_CLIENT_DIED = "Connection lost"
"""What the client prints when the part of it that uploads has crashed."""
_CLIENT = "from src.core.process import end_with_parent; end_with_parent(); from wandb.cli.cli import cli; cli()"


def mark_sent(session: Path) -> None:
    """Record that a session is on the server. A link in the place of the marker is replaced."""
    write_below(session.parent, marker(session).name, b"")


def upload(
    runs: Sequence[Waiting],
    account: Account,
    done: Callable[[Waiting], None] = lambda run: None,
    timeout: float | None = None,
    held: bool = False,
) -> list[tuple[Waiting, str]]:
    """Upload runs, and return those that did not arrive as a whole with the client's last word about them, or `BUSY`.

    Args:
        runs: that do not run; their folders are locked meanwhile, and those that another process has locked left alone.
        account: where they may be uploaded.
        done: called with each run that has arrived.
        timeout: seconds after which to give up; None never does.
        held: this process has the locks already.
    """
    end = None if timeout is None else time.monotonic() + timeout
    failed: list[tuple[Waiting, str]] = []
    left = list(runs)
    while left:
        with ExitStack() as stack:
            place = Path(stack.enter_context(TemporaryDirectory(prefix="gridlight-sync-")))
            batch: list[Waiting] = []
            copies: dict[Path, Path] = {}
            while left and len(batch) < _BATCH and _size(place) < _BATCH_BYTES:
                run = left.pop(0)
                try:
                    if not held:
                        stack.enter_context(RunFolder.open(run.folder).held())
                except UserError:
                    failed.append((run, BUSY))
                    continue
                if (waiting := waiting_in(run.folder)) is None:  # another process has uploaded it meanwhile
                    done(run)
                    continue
                target = place / str(len(batch))
                try:
                    found, whole = _copy(waiting, target, account)
                except (UserError, OSError) as error:
                    failed.append((run, first_line(error)))
                    shutil.rmtree(target, ignore_errors=True)
                    continue
                copies |= found
                batch.append(replace(waiting, complete=waiting.complete and whole))
            printed = dict.fromkeys((run.folder for run in batch), _client(batch, copies, done, end))
            if len(batch) > 1 and any(_CLIENT_DIED in text for text in printed.values()):
                for run in batch:  # one session of unexpected records must not hold back the others
                    if run.left:
                        printed[run.folder] = _client([run], copies, done, end)
            for run in batch:
                said = printed[run.folder]
                if run.left:
                    failed.append((run, said.strip().rpartition("\n")[2]))
                    continue
                folder = RunFolder.open(run.folder)
                if address := _address(said, run):
                    folder.update(wandb={**recorded_state(folder), "url": address})
                if not run.complete:
                    patience = _PATIENCE if end is None else max(1.0, end - time.monotonic())
                    if reason := _completed(folder, patience, account):
                        failed.append((run, reason))
                    else:
                        done(run)
    return failed


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _copy(run: Waiting, target: Path, account: Account) -> tuple[dict[Path, Path], bool]:
    """Copy the sessions of a run for the client, which opens files by their paths.

    Returns:
        Each copy with its session, and whether the copies have everything of the sessions.

    Raises:
        UserError: if the run is not handed to the client.
        OSError: if it cannot be copied.
    """
    from src.compat.wandb_session import copy_session

    refuse_foreign_settings([run.folder])
    record = read_record(run.folder)  # raises for a damaged run.json, which `RunFolder.open` accepts
    known = (record.get("wandb") or {}).get("id")
    copies: dict[Path, Path] = {}
    complete = True
    for number, session in enumerate(run.left):
        if known not in (None, run_id(session)):
            raise UserError(f"{session}: it belongs to another W&B run than run.json")
        copy = copy_session(session, run.folder, target / str(number), account)
        complete &= copy.whole
        if copy.has_run:
            copies[copy.log] = session
        else:  # the client would not upload anything of the whole batch
            mark_sent(session)
            complete = False
    return copies, complete


def _completed(folder: RunFolder, patience: float, account: Account) -> str | None:
    """Make a run whole whose sessions are not, and return why that failed; None if it did not."""
    from src.loggers.wandb.backfill import complete  # which loads torch

    known = recorded_state(folder) or {"id": run_id(sessions(folder.path)[-1])}
    folder.update(wandb={**known, "complete": False})
    try:
        return None if complete(folder, patience, account) else "not all of it arrived"
    except Exception as error:
        return first_line(error)


def _client(
    runs: Sequence[Waiting], copies: Mapping[Path, Path], done: Callable[[Waiting], None], end: float | None
) -> str:
    """Run the client until it ends or the time is up, mark the sessions that it has uploaded, and return its output.

    Args:
        runs: whose sessions are uploaded.
        copies: what the client uploads, with the session that each is a copy of.
        done: called with each run that has arrived as a whole.
        end: when to give up.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
    if not copies:
        return ""
    words = [sys.executable, "-c", _CLIENT, "sync", "--include-online", *map(str, copies)]
    open_runs = list(runs)
    open_copies = dict(copies)
    # The client chooses by the server's state at which step a session begins; a second attempt must begin at the same.
    without_state = [copy for copy in copies if not sync_state(copy).stat().st_size]
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
                for copy in list(without_state):
                    if (state := sync_state(copy).read_bytes()).endswith(b"}"):
                        without_state.remove(copy)
                        write_below(copies[copy].parent, sync_state(copies[copy]).name, state)
                for copy in [copy for copy in open_copies if marker(copy).exists()]:
                    mark_sent(open_copies.pop(copy))
                for run in [run for run in open_runs if run.complete and not run.left]:
                    open_runs.remove(run)
                    done(run)
        finally:
            client.kill()
            client.wait()
        said.seek(0)
        return said.read()


def _address(said: str, run: Waiting) -> str | None:
    """Return where a run can be seen, which the client writes at the end of a line; the name before it is not trusted."""
    if not run.sessions:
        return None
    found = re.search(
        rf"View run (?:.* )?at (https?://\S+/runs/{re.escape(run_id(run.sessions[0]))})$", said, re.MULTILINE
    )
    return found[1] if found else None
