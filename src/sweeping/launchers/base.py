"""The interface between the driver of a sweep and its launchers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from src.sweeping.ledger import Job, Ledger
from src.sweeping.messages import Assignment, Event


class Executor(Protocol):
    """Runs jobs: in processes on this machine, on a cluster, or several as one model.

    The driver starts a job whenever there is room, waits for events, and reads the run folder of a job that has
    ended. An executor never raises an exception because of a job.
    """

    def room(self, assignment: Assignment) -> bool:
        """Return whether this job can start now."""
        ...

    def start(self, assignment: Assignment) -> None:
        """Start a job for which there is room."""
        ...

    def wait(self, timeout: float) -> Sequence[Event]:
        """Wait at most `timeout` seconds for an event; return all events since the last call."""
        ...

    def stop(self, message: str, number: int | None = None) -> None:
        """Tell one job, or all, to save a checkpoint and end: ``stop``, to be resumed later, or ``prune``."""
        ...

    def kill(self) -> None:
        """Kill all jobs."""
        ...

    def close(self) -> None:
        """Release all resources: processes and handles."""
        ...

    @property
    def width(self) -> int:
        """Maximum number of jobs at a time."""
        ...


@runtime_checkable
class JobArranger(Protocol):
    """An executor that orders the jobs before the first one starts."""

    def arrange(self, ledger: Ledger, jobs: Sequence[Job], complete: bool) -> tuple[list[Job], list[str]]:
        """Return the jobs in the order in which to start them, and messages for the user.

        Args:
            ledger: ledger of the sweep.
            jobs: to run.
            complete: whether these are all jobs; False where a search proposes more while they run.
        """
        ...
