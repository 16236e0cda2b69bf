"""Messages between the process of a sweep and its workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP, PRUNE = "stop", "prune"


@dataclass(frozen=True)
class Assignment:
    """A job as a worker gets it.

    Args:
        number: of the job.
        config: frozen, plain containers.
        folder: its run folder.
        command: of the sweep, for the record.
        processes: how many it needs; more than one gets a fresh command of its own.
        threads: of torch; None leaves them alone.
        devices: of CUDA that it may see; None leaves them alone.
        output: file for what it prints.
        environment: of the process.
        members: jobs that are to be trained as one; the rest of the assignment is about their process.
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
        number: of the job.
        status: how.
        error: its traceback, or the name of the signal that killed it.
    """

    number: int
    status: str
    error: str = ""


@dataclass(frozen=True)
class Declined:
    """A job of several that were to be trained as one is to run on its own.

    Args:
        number: of the job.
        reason: why, in words.
    """

    number: int
    reason: str


@dataclass(frozen=True)
class Said:
    """Something that people should read."""

    text: str


Event = Progress | Ended | Declined | Said
