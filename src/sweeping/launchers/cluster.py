"""Base of the launchers for clusters: jobs are submitted together and report through a file channel."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.sweeping.launchers.file_channel import FileChannel
from src.sweeping.messages import PRUNE, Assignment, Ended, Event

CHANNEL_POLL_SECONDS = 1.0
"""Seconds between two reads of the file channels."""


class RemoteExecutor(ABC):
    """Runs jobs through the scheduler of a cluster, which a subclass talks to.

    Jobs that are started one after the other are submitted together. They report their end through their file channels; the
    scheduler is queried less often, for jobs that died without a message.

    Args:
        folder: folder of the sweep, on a disk that all machines see.
        jobs: submitted at a time.
        cores, gpus: cores and GPUs of each job.
        status_seconds: interval between two queries of the scheduler.
    """

    def __init__(self, folder: Path, jobs: int, cores: int, gpus: int, status_seconds: float) -> None:
        self.width = jobs
        self.folder = folder.absolute() / "cluster"
        self._cores, self._gpus, self._status_seconds = cores, gpus, status_seconds
        self._due: list[Assignment] = []
        self._jobs: dict[int, tuple[Assignment, FileChannel]] = {}
        self._queried_at = self._read_at = time.monotonic()

    # ---- the scheduler ---------------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, assignments: Sequence[Assignment]) -> None:
        """Submit jobs.

        Raises:
            UserError: if the scheduler rejects them.
        """

    @abstractmethod
    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        """Return the number of each job that will not run any more, and the reason that the scheduler gives."""

    @abstractmethod
    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        """Remove jobs from the queue and, unless `waiting_only`, kill those that run."""

    def adopt(self, assignment: Assignment, channel: FileChannel) -> bool:
        """Return whether the scheduler already has this job, from an earlier driver that has died."""
        return False

    # ---- Executor ------------------------------------------------------------------------------------------------

    def room(self, assignment: Assignment) -> bool:
        return len(self._jobs) < self.width

    def start(self, assignment: Assignment) -> None:
        if assignment.config["trainer"]["devices"] == "auto":  # all visible devices
            assignment = replace(assignment, processes=max(self._gpus, 1))
        assignment = replace(assignment, threads=self._cores)
        channel = self.channel(assignment)
        if not self.adopt(assignment, channel):
            channel.clear()
            self._due.append(assignment)
        self._jobs[assignment.number] = assignment, channel

    def wait(self, timeout: float) -> list[Event]:
        self._submit_due()
        time.sleep(timeout)
        if time.monotonic() - self._read_at < CHANNEL_POLL_SECONDS:
            return []
        self._read_at = time.monotonic()
        return self._collect()

    def stop(self, message: str, number: int | None = None) -> None:
        chosen = [job for job_number, job in self._jobs.items() if number in (None, job_number)]
        for _, channel in chosen:
            channel.send_control(message)
        self.cancel([assignment for assignment, _ in chosen], waiting_only=True)
        self._queried_at = 0.0

    def kill(self) -> None:
        self.cancel([assignment for assignment, _ in self._jobs.values()], waiting_only=False)
        self._queried_at = 0.0

    @abstractmethod
    def close(self) -> None:
        """Release all resources; jobs that outlive their driver keep running."""

    # ---- parts ---------------------------------------------------------------------------------------------------

    def channel(self, assignment: Assignment) -> FileChannel:
        return FileChannel(self.folder, assignment.folder.name, assignment.number)

    def _submit_due(self) -> None:
        if self._due:
            due, self._due = self._due, []
            self.submit(due)

    def _collect(self) -> list[Event]:
        events: list[Event] = []
        for _, channel in list(self._jobs.values()):
            events += self._remove_if_ended(channel.collect())
        if self._jobs and time.monotonic() - self._queried_at >= self._status_seconds:
            ended = self.gone([assignment for assignment, _ in self._jobs.values()])
            self._queried_at = time.monotonic()
            for number, reason in ended.items():
                events += self._last_events(number, reason)
        return events

    def _remove_if_ended(self, events: Sequence[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Ended):
                del self._jobs[event.number]
                break
        return list(events)

    def _last_events(self, number: int, reason: str) -> list[Event]:
        """Return the remaining events of a job that is gone, with an `Ended` if it did not send one itself."""
        channel = self._jobs[number][1]
        events = self._remove_if_ended(channel.collect())
        if number not in self._jobs:
            return events
        del self._jobs[number]
        message = channel.control_message()
        status = "failed" if message is None else "pruned" if message == PRUNE else "interrupted"
        return [*events, Ended(number, status, reason)]
