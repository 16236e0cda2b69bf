"""Progress of a running sweep: a live table of its jobs on a terminal, otherwise one line per finished job."""

import time
from collections import deque
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from src.core.console import echo, format_duration, format_number, on_terminal
from src.core.escape import terminal
from src.core.tables import new_table
from src.sweeping.ledger import Job, State
from src.sweeping.messages import Ended, Progress

RECENT = 5
"""Number of ended jobs that the table still shows."""
STATUS_SECONDS = 60.0
"""Seconds between two status lines of the running jobs, without a terminal."""
TRACEBACK = 8
"""Lines of a failed job's traceback to print; run.json and train.log hold all of it."""


@dataclass
class _Running:
    job: Job
    since: float
    before: float = 0.0
    progress: Progress | None = None

    @property
    def share(self) -> float:
        if self.progress is None or not self.progress.epochs:
            return self.before
        return min((self.progress.epoch + 1) / self.progress.epochs, 1.0)


class Display:
    """Shows the progress of a sweep.

    Args:
        total: number of jobs in the sweep; None if a search decides.
        before: number of jobs that ended before this command.
    """

    def __init__(self, total: int | None, before: int = 0) -> None:
        self._total = total
        self._before = before
        self._ended = 0
        self._worked = 0.0  # number of ended jobs, without the shares done by earlier commands
        self._failed = 0
        self._running: dict[int, _Running] = {}
        self._recent: deque[tuple[Job, State]] = deque(maxlen=RECENT)
        self._monitor = ""
        self._started: float | None = None
        self._printed_at = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        if on_terminal():
            self._live = Live(
                console=Console(markup=False, emoji=False, highlight=False),
                refresh_per_second=4,
                get_renderable=self._table,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # ---- events --------------------------------------------------------------------------------------------------

    def started(self, job: Job, before: float = 0.0) -> None:
        """Show a job.

        Args:
            job: that starts now.
            before: the share of its work that earlier commands have done.
        """
        now = time.monotonic()
        self._started = self._started or now
        self._running[job.number] = _Running(job, now, before)

    def progress(self, job: Job, progress: Progress) -> None:
        self._running[job.number].progress = progress

    def ended(self, job: Job, state: State, event: Ended) -> None:
        run = self._running.pop(job.number, None)
        if state.status != "interrupted":
            self._ended += 1
            self._worked += 1 - (run.before if run else 0.0)
        self._monitor = state.metric or self._monitor
        self._recent.append((job, state))
        value = f"{state.metric} {format_number(state.value)}" if state.value is not None else ""
        parts = [f"[{self._before + self._ended}/{self._count()}]", f"{state.status:<8}", str(job), value]
        parts += [f"({format_duration(state.seconds)})" if state.seconds else "", self._time_left()]
        if state.status == "failed":
            self._failed += 1
            self.log("\n".join(["  ".join(parts[:3]), _short_traceback(event.error or state.error)]))
        elif self._live is None:
            self.log("  ".join(filter(None, parts)))

    def tick(self) -> None:
        """Print the status of the running jobs at intervals, if there is no table."""
        if self._live is None and self._running and time.monotonic() - self._printed_at > STATUS_SECONDS:
            jobs = "; ".join(f"{run.job} {_position(run)}" for run in self._running.values())
            self.log(f"running: {jobs}  {self._time_left()}".rstrip())

    def log(self, text: str) -> None:
        """Print a line, above the table if there is one."""
        self._printed_at = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(terminal(text)), soft_wrap=True)
        else:
            echo(text, flush=True)

    # ---- rendering --------------------------------------------------------------------------------------

    def _count(self) -> str:
        return "?" if self._total is None else str(self._total)

    def seconds_left(self) -> float | None:
        """Return the estimated seconds to the end, from the share of the work that is done; None if none is done yet."""
        if self._started is None or self._total is None:
            return None
        remaining = self._total - self._before - self._ended - sum(run.share for run in self._running.values())
        worked = self._worked + sum(run.share - run.before for run in self._running.values())
        return (time.monotonic() - self._started) / worked * remaining if worked > 0 else None

    def _time_left(self) -> str:
        seconds = self.seconds_left()
        return f"about {format_duration(seconds)} left" if seconds else ""

    def _table(self) -> Group:
        table = new_table("job", "state", "epoch", self._monitor or "metric", "time", numbers=("epoch", "time"))
        now = time.monotonic()
        for job, state in self._recent:
            table.add_row(str(job), state.status, "", format_number(state.value), format_duration(state.seconds))
        for run in self._running.values():
            table.add_row(
                str(run.job), "running", _epoch(run), _metric(run, self._monitor), format_duration(now - run.since)
            )
        done = f"{self._before + self._ended} of {self._count()} jobs done"
        failed = f", {self._failed} failed" if self._failed else ""
        time_left = self._time_left()
        return Group(table, Text(f"{done}{failed}{', ' if time_left else ''}{time_left}"))


def _position(run: _Running) -> str:
    return f"epoch {_epoch(run)}" if run.progress else "starting"


def _epoch(run: _Running) -> str:
    return f"{run.progress.epoch + 1}/{run.progress.epochs}" if run.progress else ""


def _metric(run: _Running, monitor: str) -> str:
    metrics = run.progress.metrics if run.progress else {}
    value = metrics.get(monitor, metrics.get("val/loss"))
    return format_number(value) if value is not None else ""


def _short_traceback(error: str) -> str:
    """Return the last lines of a traceback, without the frames of installed packages, indented."""
    lines = error.strip().splitlines()
    own_lines: list[str] = []
    is_foreign = False
    for line in lines:
        if line.startswith("  File "):
            is_foreign = "site-packages" in line or "<frozen" in line
        elif not line.startswith(" "):
            is_foreign = False
        if not is_foreign and line.strip(" ^~"):
            own_lines.append(line)
    return "\n".join(f"    {line}" for line in own_lines[-TRACEBACK:])
