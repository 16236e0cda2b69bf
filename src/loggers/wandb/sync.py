"""Upload recorded runs to Weights & Biases."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from src.core.errors import UserError, first_line
from src.core.files import write_below
from src.core.wandb_account import own_entities
from src.loggers.wandb.connection import refuse_foreign_settings
from src.loggers.wandb.pending import Waiting, _id, marker, recorded_state, sessions, waiting_in
from src.run_store.run_folder import RunFolder, read_record

log = logging.getLogger(__name__)
_BATCH = 50
"""Runs that one process of the client uploads."""
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
    done: Callable[[Waiting], None] = lambda run: None,
    timeout: float | None = None,
    held: bool = False,
) -> list[tuple[Waiting, str]]:
    """Upload runs, and return those that did not arrive as a whole with the client's last word about them, or `BUSY`.

    Args:
        runs: that do not run; their folders are locked meanwhile, and those that another process has locked left alone.
        done: called with each run that has arrived.
        timeout: seconds after which to give up; None never does.
        held: this process has the locks already.
    """
    end = None if timeout is None else time.monotonic() + timeout
    failed: list[tuple[Waiting, str]] = []
    for start in range(0, len(runs), _BATCH):
        with ExitStack() as locks:
            batch: list[Waiting] = []
            for run in runs[start : start + _BATCH]:
                try:
                    if not held:
                        locks.enter_context(RunFolder.open(run.folder).held())
                except UserError:
                    failed.append((run, BUSY))
                    continue
                if (waiting := waiting_in(run.folder)) is None:  # another process has uploaded it meanwhile
                    done(run)
                elif reason := _refusal(waiting):
                    failed.append((run, reason))
                else:
                    batch.append(waiting)
            for run, said in _sent(batch, done, end):
                if run.left:
                    failed.append((run, said.strip().rpartition("\n")[2]))
                    continue
                folder = RunFolder.open(run.folder)
                if address := _address(said, run):
                    folder.update(wandb={**recorded_state(folder), "url": address})
                if not run.complete:
                    patience = _PATIENCE if end is None else max(1.0, end - time.monotonic())
                    if reason := _completed(folder, patience):
                        failed.append((run, reason))
                    else:
                        done(run)
    return failed


def _refusal(run: Waiting) -> str | None:
    """Return why the sessions of a run are not handed to the client; None if they can be."""
    from src.compat.wandb_session import check_session, valid_run_id

    try:
        wandb = (
            read_record(run.folder).get("wandb") or {}
        )  # raises for a damaged run.json, which `RunFolder.open` accepts
        if not valid_run_id(known := wandb.get("id", "none")):
            return f"run.json: {known!r:.80} is not the id of a W&B run"
        refuse_foreign_settings([run.folder])
        entities = own_entities()
        for session in run.left:
            check_session(session, run.folder, entities)
    except (UserError, OSError) as error:
        return first_line(error)
    return None


def _sent(runs: Sequence[Waiting], done: Callable[[Waiting], None], end: float | None) -> list[tuple[Waiting, str]]:
    """Let the client send the sessions of some runs, each by itself after a crash of the client.

    Return each run, which is no longer complete where a session was torn, with what the client printed.
    """
    found = {run.folder: run for run in runs}
    due, said = list(runs), ""
    while due:  # the client leaves alone what comes after a torn session
        said += _client(due, done, end)
        torn = [replace(run, complete=False) for run in due if _accept_torn(run, said)]
        found |= {run.folder: run for run in torn}
        due = [run for run in torn if run.left]
    sent = {folder: (run, said) for folder, run in found.items()}
    left = [run for run in found.values() if run.left]
    if len(runs) > 1 and _CLIENT_DIED in said:  # one session, of unexpected records, must not hold back the others
        for run in left:
            (sent[run.folder],) = _sent([run], done, end)
    return list(sent.values())


def _completed(folder: RunFolder, patience: float) -> str | None:
    """Make a run whole whose sessions are not, and return why that failed; None if it did not."""
    from src.loggers.wandb.backfill import complete  # which loads torch

    known = recorded_state(folder) or {"id": _id(sessions(folder.path)[-1])}  # run.json may be damaged
    folder.update(wandb={**known, "complete": False})
    try:
        return None if complete(folder, patience) else "not all of it arrived"
    except Exception as error:
        return first_line(error)


def _client(runs: Sequence[Waiting], done: Callable[[Waiting], None], end: float | None) -> str:
    """Run the client until it ends or the time is up, and return what it said."""
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
    files = [str(file.absolute()) for run in runs for file in run.left]
    if not files:
        return ""
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
                for run in [run for run in open_runs if run.complete and not run.left]:
                    open_runs.remove(run)
                    done(run)
        finally:
            client.kill()
            client.wait()
        said.seek(0)
        return said.read()


def _accept_torn(run: Waiting, said: str) -> bool:
    """Mark the sessions whose file ends within a record, as the process that wrote it was killed: all that can be read of
    them has been sent. Return whether there are any.
    """
    torn = [
        file
        for file in run.left
        if re.search(rf"{re.escape(file.parent.name)}\": (.*incomplete record|transactionlog: .*EOF)", said)
    ]
    for file in torn:
        mark_sent(file)
        log.info("%s: it ends within a record; what is missing comes from the run folder", file)
    return bool(torn)


def _address(said: str, run: Waiting) -> str | None:
    """Return where the client says that a run can be seen."""
    if not run.sessions:
        return None
    found = re.search(rf"View run .* at (\S+/runs/{re.escape(_id(run.sessions[0]))})\b", said)
    return found[1] if found else None
