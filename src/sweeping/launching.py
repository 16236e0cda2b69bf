"""A sweep from its points to its ranking: entered in the ledger, checked as a whole, run, and ranked."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from src.errors import JobsFailed, UserError
from src.sweeping.display import Display
from src.sweeping.driver import Driver, Listed
from src.sweeping.executor import Executor
from src.sweeping.grid import Composer, enter
from src.sweeping.ledger import Job, Ledger, State, locked
from src.sweeping.naming import sweep_name
from src.sweeping.repeats import print_repeats
from src.tracking.ranking import print_ranking

ACTIONS = {
    "pending": "run",
    "finished": "skip",
    "pruned": "skip",
    "interrupted": "resume",
    "unknown": "resume",
    "failed": "retry",
    "running": "runs elsewhere",
}
"""What is done about a job, from what became of it."""


def launch(
    loader: Any,
    master: DictConfig,
    points: Sequence[Sequence[str]],
    executor: Callable[[Path], Executor],
    warm_up: Callable[[], None] = lambda: None,
    outlived: bool = False,
) -> list[JobReturn]:
    """Run a grid: check every job, then run those that are not finished.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        points: the words of each job.
        executor: makes what runs them, when it is known that there is something to run, for the sweep's folder.
        warm_up: starts what takes long and can go on while the points are composed.
        outlived: whether jobs that run already are the executor's, from a command before this one.

    Raises:
        UserError: if any job's config is wrong; nothing was started then.
        JobsFailed: if some job failed, when all have ended.
        KeyboardInterrupt: after Ctrl-C; the same command goes on.
    """
    if master.resume is not None:
        raise UserError("resume goes on with one run, without -m; sweep.resume=<folder> goes on with a sweep")
    if master.sweep.resume:
        others = {word for words in points for word in words if not word.startswith("sweep.")}
        if others:
            raise UserError(f"{min(others)}: sweep.resume goes on with the jobs as they were frozen")
        points = []
        folder = Path(master.sweep.resume)
        Ledger.open(folder)  # before a lock would make a folder
    else:
        points = [[word for word in words if not word.lstrip("+").startswith("sweep.")] for words in points]
        folder = Path(master.paths.outputs) / "sweeps" / (master.sweep.name or sweep_name(master, points))
    if master.sweep.dry_run:
        ledger, jobs = _entered(folder, loader, master, points)
        _plan(ledger, jobs, master, outlived)
        return []
    with locked(folder):
        ledger, jobs = _entered(folder, loader, master, points, warm_up)
        return _run(ledger, jobs, master, executor, outlived)


def _entered(
    folder: Path,
    loader: Any,
    master: DictConfig,
    points: Sequence[Sequence[str]],
    warm_up: Callable[[], None] = lambda: None,
) -> tuple[Ledger, list[Job]]:
    """Return the ledger of a sweep with all its points in it, and their jobs; without points, all that it has."""
    name = folder.name
    ledger = Ledger.open(folder) if Ledger.exists(folder) else Ledger.create(folder, name, sys.orig_argv)
    if not points:
        return ledger, ledger.jobs
    if any(ledger.find(words) is None for words in points):
        warm_up()
    return ledger, enter(ledger, Composer(loader, master, name), points)


def _plan(ledger: Ledger, jobs: list[Job], master: DictConfig, outlived: bool = False) -> list[Job]:
    """Say what is going to happen, and return the jobs that are to run."""
    states = ledger.states() if outlived else _settled(ledger, jobs)
    due = [job for job in jobs if _is_due(states[job.number], master.sweep.retry_failed, outlived)]
    counts = [
        sum(ACTIONS[states[job.number].status] == action for job in jobs) for action in ("skip", "resume", "retry")
    ]
    print(f"sweep {ledger.head['name']}: {len(jobs)} jobs in {ledger.folder}{_counted(*counts)}", flush=True)
    if changed := ledger.code_changed():
        print(f"note: {changed}; jobs run the code as it is now, on the configs as they were frozen", flush=True)
    if master.sweep.dry_run:
        from src.sweeping.estimate import print_plan

        print_plan(ledger, jobs, states, [job in due for job in jobs])
    return due


def _run(
    ledger: Ledger, jobs: list[Job], master: DictConfig, executor: Callable[[Path], Executor], outlived: bool
) -> list[JobReturn]:
    due = _plan(ledger, jobs, master, outlived)
    ledger.save()
    complete = True
    if due:
        with Display(len(jobs), before=len(jobs) - len(due)) as display:
            complete = Driver(ledger, Listed(due), executor(ledger.folder), display, sys.orig_argv).run()
    return _close(ledger, jobs, complete)


def _settled(ledger: Ledger, jobs: list[Job]) -> dict[int, State]:
    """Return what became of each job, when the workers of a driver that was just killed have followed it."""
    for _ in range(50):
        states = ledger.states()
        if not any(states[job.number].status == "running" for job in jobs):
            break
        time.sleep(0.1)
    return states


def _is_due(state: State, retry_failed: bool, outlived: bool) -> bool:
    action = ACTIONS[state.status]
    follow = action == "runs elsewhere" and outlived
    return action in ("run", "resume") or follow or (action == "retry" and retry_failed)


def _counted(finished: int, interrupted: int, failed: int) -> str:
    parts = [f"{finished} finished before", f"{interrupted} to resume", f"{failed} failed before"]
    shown = [part for part in parts if not part.startswith("0 ")]
    return f" ({', '.join(shown)})" if shown else ""


# ---- the end -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """What a ranking shows of a job."""

    overrides: Sequence[str]
    folder: Path
    status: str
    metric: str
    mode: str
    value: float | None
    seconds: float


def _close(ledger: Ledger, jobs: list[Job], complete: bool) -> list[JobReturn]:
    """Print one ranking for each metric, since losses of different tasks do not compare, and how many jobs are done."""
    states = ledger.states()
    entries = [_entry(ledger, job, states[job.number]) for job in jobs]
    measured = [entry for entry in entries if entry.value is not None]
    for metric in dict.fromkeys(entry.metric for entry in measured):
        same = [entry for entry in measured if entry.metric == metric]
        print_ranking(same, same[0].mode)
    print_repeats(measured)
    finished = sum(entry.status == "finished" for entry in entries)
    rest = "" if complete else "; the same command goes on"
    print(f"{finished} of {len(jobs)} jobs finished{rest}", flush=True)
    if not complete:
        raise KeyboardInterrupt(f"go on with: python -m src.train -m sweep.resume={ledger.folder}")
    elsewhere = [entry.folder for entry in entries if entry.status == "running"]
    if elsewhere:
        raise JobsFailed(f"{len(elsewhere)} of {len(jobs)} jobs still run in another process, such as {elsewhere[0]}")
    failed = sum(entry.status in ("failed", "pending", "interrupted") for entry in entries)
    if failed:
        raise JobsFailed(f"{failed} of {len(jobs)} jobs failed")
    return [_returned(job, entry) for job, entry in zip(jobs, entries, strict=True)]


def _entry(ledger: Ledger, job: Job, state: State) -> _Entry:
    shown = Path(ledger.folder) / job.slug
    return _Entry(job.words, shown, state.status, state.metric, state.mode, state.value, state.seconds)


def _returned(job: Job, entry: _Entry) -> JobReturn:
    result = JobReturn(overrides=list(job.words), cfg=None, status=JobStatus.COMPLETED)
    result.return_value = entry.value
    return result
