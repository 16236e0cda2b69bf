"""Messages between the driver of a sweep and its workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP, PRUNE = "stop", "prune"


@dataclass(frozen=True)
class Assignment:
    """A job, as it is sent to a worker.

    Args:
        number: number of the job.
        config: frozen, plain containers.
        folder: its run folder.
        command: command of the sweep, for the record.
        processes: number of processes that it needs; with more than one it runs as a command of its own.
        threads: threads of torch; None leaves the default.
        devices: ids of the CUDA devices that it may use; None leaves the default.
        output: file for its output.
        environment: environment of the process.
        members: jobs to train as one model; the other fields then describe their common process.
        fuse: ``auto`` or ``always``, for members.
    """

    number: int
    config: dict[str, Any]
    folder: Path
    command: tuple[str, ...]
    processes: int = 1
    threads: int | None = None
    devices: tuple[str, ...] | None = None
    output: Path | None = None
    environment: dict[str, str] | None = None
    members: tuple["Assignment", ...] = ()
    fuse: str = "always"


@dataclass(frozen=True)
class Progress:
    """An epoch of a job has ended."""

    number: int
    epoch: int
    epochs: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Ended:
    """A job has ended: ``finished``, ``failed``, ``interrupted`` or ``pruned``.

    Args:
        number: number of the job.
        status: how it ended.
        error: its traceback, or the name of the signal that killed it.
    """

    number: int
    status: str
    error: str = ""


@dataclass(frozen=True)
class Rejected:
    """A job of a group that must run on its own instead of being trained with the others.

    Args:
        number: number of the job.
        reason: why, for the user.
    """

    number: int
    reason: str


@dataclass(frozen=True)
class Message:
    """A message for the user."""

    text: str


Event = Progress | Ended | Rejected | Message
