"""What all schedulers of other machines have in common: jobs are handed over together, and heard of by mail."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.sweeping.launchers.file_channel import Mailbox
from src.sweeping.messages import PRUNE, Assignment, Ended, Event

HEARS_EVERY = 1.0
"""Seconds between two looks into the mailboxes."""


class RemoteExecutor(ABC):
    """Runs jobs through a scheduler, which a subclass speaks to.

    Jobs that are started one after the other are submitted together. Their ends are known from their mailboxes; the
    scheduler is asked more rarely, for those that died without a word.

    Args:
        folder: of the sweep, on a disk that all machines see.
        jobs: submitted at a time.
        cores, gpus: of each job.
        asks_every: seconds between two questions to the scheduler.
    """

    def __init__(self, folder: Path, jobs: int, cores: int, gpus: int, asks_every: float) -> None:
        self.width = jobs
        self.folder = folder.absolute() / "cluster"
        self._cores, self._gpus, self._asks_every = cores, gpus, asks_every
        self._due: list[Assignment] = []
        self._jobs: dict[int, tuple[Assignment, Mailbox]] = {}
        self._asked = self._listened = time.monotonic()

    # ---- what a scheduler does ---------------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, assignments: Sequence[Assignment]) -> None:
        """Hand jobs over.

        Raises:
            UserError: if the scheduler refuses them.
        """

    @abstractmethod
    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        """Return those of the jobs that will not run any more, by number, with what the scheduler says of them."""

    @abstractmethod
    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        """Take jobs off the queue, and end those that run unless `waiting_only`."""

    def adopt(self, assignment: Assignment, mailbox: Mailbox) -> bool:
        """Whether a job is with the scheduler already, from a driver that is dead."""
        return False

    # ---- Executor ------------------------------------------------------------------------------------------------

    def room(self, assignment: Assignment) -> bool:
        return len(self._jobs) < self.width

    def start(self, assignment: Assignment) -> None:
        if assignment.config["trainer"]["devices"] == "auto":  # all that it sees
            assignment = replace(assignment, processes=max(self._gpus, 1))
        assignment = replace(assignment, threads=self._cores)
        mailbox = self.mailbox(assignment)
        if not self.adopt(assignment, mailbox):
            mailbox.clear()
            self._due.append(assignment)
        self._jobs[assignment.number] = assignment, mailbox

    def wait(self, timeout: float) -> list[Event]:
        self._hand_over()
        time.sleep(timeout)
        if time.monotonic() - self._listened < HEARS_EVERY:
            return []
        self._listened = time.monotonic()
        return self._heard()

    def stop(self, order: str, number: int | None = None) -> None:
        chosen = [job for own, job in self._jobs.items() if number in (None, own)]
        for _, mailbox in chosen:
            mailbox.give(order)
        self.cancel([assignment for assignment, _ in chosen], waiting_only=True)
        self._asked = 0.0

    def kill(self) -> None:
        self.cancel([assignment for assignment, _ in self._jobs.values()], waiting_only=False)
        self._asked = 0.0

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind; jobs that outlive their driver are left alone."""

    # ---- parts ---------------------------------------------------------------------------------------------------

    def mailbox(self, assignment: Assignment) -> Mailbox:
        return Mailbox(self.folder, assignment.folder.name, assignment.number)

    def _hand_over(self) -> None:
        if self._due:
            due, self._due = self._due, []
            self.submit(due)

    def _heard(self) -> list[Event]:
        events: list[Event] = []
        for _, mailbox in list(self._jobs.values()):
            events += self._until_its_end(mailbox.collect())
        if self._jobs and time.monotonic() - self._asked >= self._asks_every:
            said = self.gone([assignment for assignment, _ in self._jobs.values()])
            self._asked = time.monotonic()
            for number, words in said.items():
                events += self._buried(number, words)
        return events

    def _until_its_end(self, events: Sequence[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Ended):
                del self._jobs[event.number]
                break
        return list(events)

    def _buried(self, number: int, words: str) -> list[Event]:
        """Return the last words of a job that is gone; without any, say that it has ended."""
        mailbox = self._jobs[number][1]
        last = self._until_its_end(mailbox.collect())
        if number not in self._jobs:
            return last
        del self._jobs[number]
        order = mailbox.order()
        status = "failed" if order is None else "pruned" if order == PRUNE else "interrupted"
        return [*last, Ended(number, status, words)]
