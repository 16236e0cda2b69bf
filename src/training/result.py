"""Result of a run."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Args:
        folder: the run folder.
        status: ``finished``, ``failed`` or ``interrupted``.
        monitor: metric that selected the best epoch.
        mode: direction of the monitor, ``min`` or ``max``.
        value: best value of the monitor; without a best checkpoint, the last value.
        metrics: metrics of the best epoch and of the test split, by ``split/name``; without a best checkpoint, those of
            the last epoch, whose weights were tested.
        seconds: wall-clock time.
    """

    folder: Path
    status: str
    monitor: str
    mode: str
    value: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
