"""What the driver of a sweep asks of a launcher, whatever it runs the jobs on."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from src.sweeping.ledger import Job, Ledger
from src.sweeping.messages import Assignment, Event


class Executor(Protocol):
    """Runs jobs somewhere: in processes of this machine, on a cluster, many in one.

    The driver starts a job whenever there is room, waits for events, and looks at the run folder of a job that has
    ended. An executor never raises because of a job.
    """

    def room(self, assignment: Assignment) -> bool:
        """Whether this job can start now."""
        ...

    def start(self, assignment: Assignment) -> None:
        """Start a job for which there is room."""
        ...

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return what happened, as soon as something has, and nothing after `timeout` seconds without."""
        ...

    def stop(self, order: str, number: int | None = None) -> None:
        """Ask one job, or all, to save a checkpoint and end: ``stop``, to go on another time, or ``prune``."""
        ...

    def kill(self) -> None:
        """End all jobs at once."""
        ...

    def close(self) -> None:
        """Leave nothing behind: no process, no handle."""
        ...

    @property
    def width(self) -> int:
        """How many jobs run at a time."""
        ...


@runtime_checkable
class Arranging(Protocol):
    """An executor that wants to know all jobs before the first is started."""

    def arrange(self, ledger: Ledger, jobs: Sequence[Job], known: bool) -> tuple[list[Job], list[str]]:
        """Return the jobs in the order in which they are to be started, and what people should know of it.

        Args:
            ledger: of the sweep.
            jobs: that are to run.
            known: whether they are all, and not those that a search has proposed so far.
        """
        ...
