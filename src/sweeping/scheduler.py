"""The driver of a sweep: starts jobs when there is room, receives their events, and records how each ended."""

import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from src.core.errors import UserError
from src.core.files import append_below, confine, is_file_below, open_below, remove_below
from src.run_store.best_epoch import best_so_far
from src.run_store.metrics_file import read_metrics
from src.run_store.run_folder import RunFolder
from src.sweeping.launchers.base import Executor
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.messages import PRUNE, STOP, Assignment, Ended, Event, Message, Progress, Rejected
from src.sweeping.progress_table import Display

POLL = 0.2
"""Seconds that a driver waits for events before it checks whether it must stop."""


class JobSource(Protocol):
    """Supplies the jobs: a fixed list, or a search that learns from the jobs that have ended."""

    def next_job(self) -> Job | None:
        """Return the next job; None if there is none now."""
        ...

    def has_more(self) -> bool:
        """Return whether there are, or may still be, more jobs."""
        ...

    def report_epoch(self, job: Job, progress: Progress) -> bool:
        """Report an epoch; return whether to continue the job."""
        ...

    def report_end(self, job: Job, state: State) -> None:
        """Report how a job ended."""
        ...


class FixedJobs:
    """The jobs of a grid, in their order."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = list(jobs)[::-1]

    def next_job(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def has_more(self) -> bool:
        return bool(self._jobs)

    def report_epoch(self, job: Job, progress: Progress) -> bool:
        return True

    def report_end(self, job: Job, state: State) -> None:
        pass


class Driver:
    """Runs the jobs of a source.

    Args:
        ledger: ledger of the sweep.
        source: source of the jobs.
        executor: runs them.
        display: shows the progress.
        command: command of the sweep, for the records of its jobs.
    """

    def __init__(
        self, ledger: Ledger, source: JobSource, executor: Executor, display: Display, command: Sequence[str]
    ) -> None:
        self._ledger = ledger
        self._source = source
        self._executor = executor
        self._display = display
        self._command = tuple(command)
        self._output = ledger.folder / "output"
        self._running: dict[int, Job] = {}
        self._pruned: set[int] = set()
        self._waiting: tuple[Job, Assignment] | None = None
        self._signals = 0
        self._handled_signals = 0
        self._starting = False

    def run(self) -> bool:
        """Run until all jobs have ended; return False if Ctrl-C stopped the sweep.

        After the first Ctrl-C (or SIGTERM) no more jobs start and the running ones save a checkpoint; the second kills them.
        """
        with self._count_signals():
            try:
                while self._start_jobs() or self._running:
                    for event in self._executor.wait(POLL):
                        self._handle(event)
                    self._display.tick()
                    self._handle_signals()
            except KeyboardInterrupt:
                assert self._signals
            finally:
                self._executor.close()
                with suppress(OSError):  # unless it is not empty
                    self._output.rmdir()
        return not self._signals

    def _start_jobs(self) -> bool:
        """Start jobs while there is room; return whether there may be more."""
        if self._signals:
            return False
        while True:
            if len(self._running) >= self._executor.width:
                return (
                    self._waiting is not None or self._source.has_more()
                )  # ask a search as late as possible, when it has the most results
            if self._waiting is None and (job := self._source.next_job()) is not None:
                self._waiting = job, self._assignment(job)
            if self._waiting is None or not self._executor.room(self._waiting[1]):
                return self._waiting is not None or self._source.has_more()
            job, assignment = self._waiting
            self._waiting = None
            done_before = _share_done(assignment)
            self._starting = True
            self._executor.start(assignment)
            self._starting = False
            self._running[job.number] = job
            self._display.started(job, done_before)

    def _assignment(self, job: Job) -> Assignment:
        config = self._ledger.config(job)
        return Assignment(
            number=job.number,
            config=config,
            folder=self._ledger.path(job).absolute(),
            command=self._command,
            processes=processes_of(config["trainer"]["devices"]),
            output=(self._output / f"{job.slug}.txt").absolute(),
        )

    def _handle(self, event: Event) -> None:
        if isinstance(event, Message):
            self._display.log(event.text)
            return
        assert not isinstance(event, Rejected), "handled by the executor"
        job = self._running[event.number]
        if isinstance(event, Progress):
            self._display.progress(job, event)
            if not self._source.report_epoch(job, event) and job.number not in self._pruned:
                self._pruned.add(job.number)  # a second message would end it without a checkpoint
                self._executor.stop(PRUNE, job.number)
            return
        del self._running[event.number]
        self._pruned.discard(event.number)
        self._record(job, event)
        state = self._ledger.refresh(job)
        if state.status == "pending":  # it was rejected before it had a folder
            state = State(status=event.status, error=event.error)
        self._source.report_end(job, state)
        self._display.ended(job, state, event)

    def _record(self, job: Job, ended: Ended) -> None:
        """Complete the record of a job whose process could not, and append its output to train.log."""
        path = self._ledger.path(job).absolute()
        confine(path)
        output = f"{self._output.name}/{job.slug}.txt"
        try:
            if is_file_below(path, "run.json"):
                self._complete(RunFolder.open(path), ended)
                _append(self._ledger.folder, output, path)
            remove_below(self._ledger.folder, output)
        except (OSError, UserError) as error:  # a damaged folder of one job must not stop the others
            self._display.log(str(error))

    def _complete(self, folder: RunFolder, ended: Ended) -> None:
        if ended.status == "pruned" and folder.record.get("status") in ("running", "interrupted"):
            folder.update(status="pruned", **best_so_far(folder))
        elif folder.record.get("status") == "running" and not folder.alive:
            if self._handled_signals > 1:
                folder.interrupt()
            else:
                folder.fail(ProcessEnded(ended.error))
        elif ended.status == "failed" and folder.record.get("status") == "interrupted" and not self._handled_signals:
            folder.fail(ProcessEnded(ended.error))  # it was stopped by somebody else

    # ---- stopping ------------------------------------------------------------------------------------------------

    @contextmanager
    def _count_signals(self) -> Iterator[None]:
        def count(number: int, frame: object) -> None:
            self._signals += 1
            if self._starting and not self._running:  # the start of the first job waits until everything is imported
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle_signals(self) -> None:
        if self._signals > self._handled_signals:
            if self._handled_signals == 0:
                self._executor.stop(STOP)
                self._display.log(
                    f"stopping: {len(self._running)} jobs save a checkpoint; press Ctrl-C again to kill them"
                )
            if self._signals > 1:
                self._executor.kill()
            self._handled_signals = self._signals


class ProcessEnded(RuntimeError):
    """The process of a job ended before the job did."""


def processes_of(devices: object) -> int:
    """Return the number of processes for a job's ``trainer.devices``."""
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) else 1


def _share_done(assignment: Assignment) -> float:
    """Return the share of a job that an earlier command has done."""
    if not is_file_below(assignment.folder, "metrics.jsonl"):
        return 0.0
    rows = [row["epoch"] for row in read_metrics(assignment.folder) if "train/loss" in row and "epoch" in row]
    epochs = [epoch + 1 for epoch in rows if isinstance(epoch, int | float)]
    return min(max(epochs, default=0) / assignment.config["trainer"]["max_epochs"], 1.0)


def _append(sweep: Path, output: str, run: Path) -> None:
    """Append the output of a job to its log."""
    with suppress(FileNotFoundError), open_below(sweep, output) as printed:
        if os.fstat(printed.fileno()).st_size:
            with append_below(run, "train.log") as log:
                shutil.copyfileobj(printed, log)
