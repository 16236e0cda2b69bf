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
from src.core.wandb_account import Account
from src.loggers.wandb.connection import refuse_foreign_settings
from src.loggers.wandb.pending import (
    PendingUpload,
    mark_sent,
    marker,
    pending_upload,
    recorded_state,
    run_id,
    sessions,
    sync_state,
    write_beside,
)
from src.run_store.run_folder import RunFolder, read_record

log = logging.getLogger(__name__)
_BATCH = 50
"""Maximum number of runs that one process of the client uploads."""
_BATCH_BYTES = 2**30
"""Size of the copies after which no further run is added to a batch."""
_BACKFILL_TIMEOUT = 600.0
"""Timeout of a backfill in seconds."""
BUSY = "another process works on it"
_CLIENT_DIED = "Connection lost"
"""Printed by the client when its uploading process has crashed."""
_CLIENT = "from src.core.process import set_parent_death_signal; set_parent_death_signal(); from wandb.cli.cli import cli; cli()"


def upload(
    runs: Sequence[PendingUpload],
    account: Account,
    done: Callable[[PendingUpload], None] = lambda run: None,
    timeout: float | None = None,
    is_locked: bool = False,
) -> list[tuple[PendingUpload, str]]:
    """Upload runs, and return those that were not completely uploaded, each with the last message of the client, or `BUSY`.

    Args:
        runs: runs that are not running. Their folders are locked; a run that another process has locked is skipped.
        account: where they may be uploaded.
        done: called with each run that was uploaded.
        timeout: in seconds; None for no timeout.
        is_locked: this process already holds the locks.
    """
    end = None if timeout is None else time.monotonic() + timeout
    failed: list[tuple[PendingUpload, str]] = []
    remaining = list(runs)
    while remaining:
        with ExitStack() as stack:
            temporary = Path(stack.enter_context(TemporaryDirectory(prefix="gridlight-sync-")))
            batch: list[PendingUpload] = []
            copies: dict[Path, Path] = {}
            while remaining and len(batch) < _BATCH and _size(temporary) < _BATCH_BYTES:
                run = remaining.pop(0)
                try:
                    if not is_locked:
                        stack.enter_context(RunFolder.open(run.folder).locked())
                except UserError:
                    failed.append((run, BUSY))
                    continue
                if (pending := pending_upload(run.folder)) is None:  # another process has uploaded it in the meantime
                    done(run)
                    continue
                target = temporary / str(len(batch))
                try:
                    run_copies, complete = _copy(pending, target, account)
                except (UserError, OSError) as error:
                    failed.append((run, first_line(error)))
                    shutil.rmtree(target, ignore_errors=True)
                    continue
                copies |= run_copies
                batch.append(replace(pending, complete=pending.complete and complete))
            printed = dict.fromkeys((run.folder for run in batch), _client(batch, copies, done, end))
            if len(batch) > 1 and any(_CLIENT_DIED in text for text in printed.values()):
                for run in batch:  # a session with unexpected records must not prevent the upload of the others
                    if run.left:
                        printed[run.folder] = _client([run], copies, done, end)
            for run in batch:
                output = printed[run.folder]
                if run.left:
                    failed.append((run, output.strip().rpartition("\n")[2]))
                    continue
                folder = RunFolder.open(run.folder)
                if url := _run_url(output, run):
                    folder.update(wandb={**recorded_state(folder), "url": url})
                if not run.complete:
                    backfill_timeout = _BACKFILL_TIMEOUT if end is None else max(1.0, end - time.monotonic())
                    if reason := _backfill(folder, backfill_timeout, account):
                        failed.append((run, reason))
                    else:
                        done(run)
    return failed


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _copy(run: PendingUpload, target: Path, account: Account) -> tuple[dict[Path, Path], bool]:
    """Copy the sessions of a run for the client, which opens files by their paths.

    Returns:
        Each copy with its session, and whether the copies are complete.

    Raises:
        UserError: if the run may not be uploaded.
        OSError: if it cannot be copied.
    """
    from src.compat.wandb_session import copy_session

    refuse_foreign_settings([run.folder])
    record = read_record(run.folder)  # raises for a damaged run.json, which `RunFolder.open` accepts
    recorded_id = (record.get("wandb") or {}).get("id")
    copies: dict[Path, Path] = {}
    complete = True
    for number, session in enumerate(run.left):
        if recorded_id not in (None, run_id(session)):
            raise UserError(f"{session}: its W&B run is not the one in run.json")
        copy = copy_session(session, run.folder, target / str(number), account)
        complete &= copy.complete
        if copy.has_run:
            copies[copy.log] = session
        else:  # the client would upload nothing of the whole batch
            mark_sent(session)
            complete = False
    return copies, complete


def _backfill(folder: RunFolder, timeout: float, account: Account) -> str | None:
    """Backfill a run whose sessions are incomplete; return why that failed, or None if it did not."""
    from src.loggers.wandb.backfill import backfill  # lazy: it imports torch

    state = recorded_state(folder) or {"id": run_id(sessions(folder.path)[-1])}
    folder.update(wandb={**state, "complete": False})
    try:
        return None if backfill(folder, timeout, account) else "the upload is incomplete"
    except Exception as error:
        return first_line(error)


def _client(
    runs: Sequence[PendingUpload], copies: Mapping[Path, Path], done: Callable[[PendingUpload], None], end: float | None
) -> str:
    """Run the client until it ends or times out, mark the sessions that it has uploaded, and return its output.

    Args:
        runs: runs whose sessions are uploaded.
        copies: the copies that the client uploads, each with its session.
        done: called with each run that was completely uploaded.
        end: time of `time.monotonic` at which to stop; None for no limit.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
    if not copies:
        return ""
    argv = [sys.executable, "-c", _CLIENT, "sync", "--include-online", *map(str, copies)]
    open_runs = list(runs)
    open_copies = dict(copies)
    # The client chooses the first step of a session by the state of the server; a second attempt must use the same step.
    without_state = [copy for copy in copies if not sync_state(copy).stat().st_size]
    with TemporaryFile("w+") as output:
        client = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment | {"WANDB_SILENT": "false"}
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
                        write_beside(copies[copy], sync_state(copies[copy]).name, state)
                for copy in [copy for copy in open_copies if marker(copy).exists()]:
                    mark_sent(open_copies.pop(copy))
                for run in [run for run in open_runs if run.complete and not run.left]:
                    open_runs.remove(run)
                    done(run)
        finally:
            client.kill()
            client.wait()
        output.seek(0)
        return output.read()


def _run_url(output: str, run: PendingUpload) -> str | None:
    """Return the URL of a run, which the client prints at the end of a line. The name before it is not trusted."""
    if not run.sessions:
        return None
    match = re.search(
        rf"View run (?:.* )?at (https?://\S+/runs/{re.escape(run_id(run.sessions[0]))})$", output, re.MULTILINE
    )
    return match[1] if match else None
