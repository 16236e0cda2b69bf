"""Command line of `python -m src.sync`: upload runs that Weights & Biases recorded offline."""

import sys
from collections.abc import Sequence
from pathlib import Path

from src.core.console import display_path, echo, on_terminal
from src.core.errors import UserError


def sync(paths: Sequence[Path], dry_run: bool = False) -> bool:
    """Upload the pending runs of some folders, and return whether all were uploaded.

    Args:
        paths: run folders, or folders with runs at any depth.
        dry_run: only print what would be uploaded.

    Raises:
        UserError: if there is no such folder, if no key is configured, or if the server cannot be reached.
    """
    from src.config.wandb_account import user_account
    from src.loggers.wandb.pending import PendingUpload, find_pending
    from src.loggers.wandb.sync import BUSY, upload
    from src.run_store.run_folder import RunFolder

    runs: list[PendingUpload] = []
    for run in find_pending(paths):
        folder = RunFolder.open(run.folder)
        if not folder.alive:
            runs.append(run)
        elif folder.record.get("status") == "running":
            echo(f"still running: {display_path(run.folder)}")
        else:
            echo(f"left alone, {BUSY}: {display_path(run.folder)}")
    if not runs:
        echo("nothing to upload")
        return True
    size = sum(run.size for run in runs)
    if dry_run:
        echo("\n".join(f"would upload {display_path(run.folder)}" for run in runs))
        echo(f"{_runs(len(runs))}, {_megabytes(size)}")
        return True
    _check_server(paths)
    with _Bar(len(runs), size) as bar:
        remaining = upload(runs, user_account(), done=bar.add_run)
    failed = [(run, reason) for run, reason in remaining if reason != BUSY]
    for run, reason in remaining:
        if reason == BUSY:
            echo(f"left alone, {BUSY}: {display_path(run.folder)}")
        else:
            echo(f"not uploaded: {display_path(run.folder)}: {reason}", file=sys.stderr)
    uploaded = size - sum(run.size for run, _ in remaining)
    echo(f"{_runs(len(runs) - len(remaining))} uploaded, {_megabytes(uploaded)}")
    if failed:
        echo("the same command continues", file=sys.stderr)
    return not failed


def _check_server(paths: Sequence[Path]) -> None:
    from src.loggers.wandb.connection import key_is_configured, refuse_foreign_settings, why_unreachable

    refuse_foreign_settings(paths)
    if not key_is_configured():
        raise UserError("Weights & Biases: no key is configured; wandb login, or set WANDB_API_KEY")
    if reason := why_unreachable():
        raise UserError(f"Weights & Biases: {reason}; nothing was uploaded; the runs remain on disk")


class _Bar:
    """A progress bar on a terminal; elsewhere, a line for each run.

    Args:
        runs: number of runs.
        size: size of all runs, in bytes.
    """

    def __init__(self, runs: int, size: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, disable=not on_terminal())
        self._runs, self._done = runs, 0
        self._task = self._progress.add_task(self._text(), total=size)

    def _text(self) -> str:
        return f"{self._done} of {_runs(self._runs)} uploaded"

    def add_run(self, run: object) -> None:
        """Count one more uploaded run."""
        from src.loggers.wandb.pending import PendingUpload

        assert isinstance(run, PendingUpload)
        self._done += 1
        self._progress.update(self._task, advance=run.size, description=self._text())
        if self._progress.disable:
            echo(f"{self._text()}: {display_path(run.folder)}", flush=True)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
