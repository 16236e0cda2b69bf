"""The driver of a sweep: starts jobs where there is room, listens to them, and writes down what became of each."""

import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from src.core.errors import UserError
from src.core.files import append_below, is_file_below, open_below, remove_below
from src.run_store.best_epoch import best_so_far
from src.run_store.metrics_file import read_metrics
from src.run_store.run_folder import RunFolder
from src.sweeping.launchers.base import Executor
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.messages import PRUNE, STOP, Assignment, Declined, Ended, Event, Progress, Said
from src.sweeping.progress_table import Display

POLL = 0.2
"""Seconds after which a driver that hears nothing looks whether it was told to stop."""


class Source(Protocol):
    """Where jobs come from: a list that is known from the start, or a search that learns from those that have ended."""

    def ask(self) -> Job | None:
        """Return the next job; None while there is none."""
        ...

    def more(self) -> bool:
        """Whether there are, or may still be, more jobs."""
        ...

    def report(self, job: Job, progress: Progress) -> bool:
        """Take note of an epoch; return whether the job is worth going on with."""
        ...

    def tell(self, job: Job, state: State) -> None:
        """Take note of how a job has ended."""
        ...


class Listed:
    """The jobs of a grid, in their order."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = list(jobs)[::-1]

    def ask(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def more(self) -> bool:
        return bool(self._jobs)

    def report(self, job: Job, progress: Progress) -> bool:
        return True

    def tell(self, job: Job, state: State) -> None:
        pass


class Driver:
    """Runs the jobs of a source.

    Args:
        ledger: of the sweep.
        source: of the jobs.
        executor: what runs them.
        display: what people see.
        command: of the sweep, for the records of its jobs.
    """

    def __init__(
        self, ledger: Ledger, source: Source, executor: Executor, display: Display, command: Sequence[str]
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
        self._obeyed = 0
        self._starting = False

    def run(self) -> bool:
        """Run until all jobs have ended; return whether that was so, and not Ctrl-C.

        The first Ctrl-C (or SIGTERM) starts no more jobs and lets those that run save a checkpoint, the second ends them.
        """
        with self._signals_counted():
            try:
                while self._start_jobs() or self._running:
                    for event in self._executor.wait(POLL):
                        self._take(event)
                    self._display.tick()
                    self._obey()
            except KeyboardInterrupt:
                assert self._signals
            finally:
                self._executor.close()
                with suppress(OSError):  # unless something was left in it
                    self._output.rmdir()
        return not self._signals

    def _start_jobs(self) -> bool:
        """Start what there is room for; return whether more may come."""
        if self._signals:
            return False
        while True:
            if len(self._running) >= self._executor.width:
                return self._waiting is not None or self._source.more()  # a search is asked when it knows most
            if self._waiting is None and (job := self._source.ask()) is not None:
                self._waiting = job, self._assignment(job)
            if self._waiting is None or not self._executor.room(self._waiting[1]):
                return self._waiting is not None or self._source.more()
            job, assignment = self._waiting
            self._waiting = None
            before = _share_done(assignment)
            self._starting = True
            self._executor.start(assignment)
            self._starting = False
            self._running[job.number] = job
            self._display.started(job, before)

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

    def _take(self, event: Event) -> None:
        if isinstance(event, Said):
            self._display.say(event.text)
            return
        assert not isinstance(event, Declined), "an executor's own"
        job = self._running[event.number]
        if isinstance(event, Progress):
            self._display.progress(job, event)
            if not self._source.report(job, event) and job.number not in self._pruned:
                self._pruned.add(job.number)  # a second order would end it without a checkpoint
                self._executor.stop(PRUNE, job.number)
            return
        del self._running[event.number]
        self._pruned.discard(event.number)
        self._record(job, event)
        state = self._ledger.refresh(job)
        if state.status == "pending":  # it was refused before it had a folder
            state = State(status=event.status, error=event.error)
        self._source.tell(job, state)
        self._display.ended(job, state, event)

    def _record(self, job: Job, ended: Ended) -> None:
        """Complete the record of a job whose process could not do it any more, and keep what it printed."""
        path = self._ledger.path(job)
        output = f"{self._output.name}/{job.slug}.txt"
        try:
            if is_file_below(path, "run.json"):
                self._complete(RunFolder.open(path), ended)
                _append(self._ledger.folder, output, path)
            remove_below(self._ledger.folder, output)
        except (OSError, UserError) as error:  # a damaged folder of one job does not stop the others
            self._display.say(str(error))

    def _complete(self, folder: RunFolder, ended: Ended) -> None:
        if ended.status == "pruned" and folder.record.get("status") in ("running", "interrupted"):
            folder.update(status="pruned", **best_so_far(folder))
        elif folder.record.get("status") == "running" and not folder.alive:
            if self._obeyed > 1:
                folder.interrupt()
            else:
                folder.fail(ProcessEnded(ended.error))
        elif ended.status == "failed" and folder.record.get("status") == "interrupted" and not self._obeyed:
            folder.fail(ProcessEnded(ended.error))  # somebody else stopped it

    # ---- stopping ------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals_counted(self) -> Iterator[None]:
        def count(number: int, frame: object) -> None:
            self._signals += 1
            if self._starting and not self._running:  # the first job waits until everything is imported
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _obey(self) -> None:
        if self._signals > self._obeyed:
            if self._obeyed == 0:
                self._executor.stop(STOP)
                self._display.say(f"stopping: {len(self._running)} jobs save a checkpoint; once more ends them at once")
            if self._signals > 1:
                self._executor.kill()
            self._obeyed = self._signals


class ProcessEnded(RuntimeError):
    """The process of a job ended before the job did."""


def processes_of(devices: object) -> int:
    """Return how many processes a job's ``trainer.devices`` asks for."""
    return len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1


def _share_done(assignment: Assignment) -> float:
    """Return how much of a job an earlier session has done."""
    if not is_file_below(assignment.folder, "metrics.jsonl"):
        return 0.0
    rows = [row["epoch"] for row in read_metrics(assignment.folder) if "train/loss" in row and "epoch" in row]
    epochs = [epoch + 1 for epoch in rows if isinstance(epoch, int | float)]
    return min(max(epochs, default=0) / assignment.config["trainer"]["max_epochs"], 1.0)


def _append(sweep: Path, output: str, run: Path) -> None:
    """Put what a job printed at the end of its log."""
    with suppress(FileNotFoundError), open_below(sweep, output) as printed:
        if os.fstat(printed.fileno()).st_size:
            with append_below(run, "train.log") as log:
                shutil.copyfileobj(printed, log)
