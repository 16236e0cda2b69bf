"""A sweep from its points to its ranking: entered in the ledger, checked as a whole, run, and ranked."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from src.config.schema.run import Config
from src.config.schema.search import Sweep
from src.config.trust import trust_own_config
from src.config.validate import check_section
from src.core.console import echo
from src.core.errors import JobsFailed, UserError
from src.sweeping.job_composer import Composer, enter
from src.sweeping.launchers.base import Arranging, Executor
from src.sweeping.ledger import ACTIONS, Job, Ledger, State, locked
from src.sweeping.naming import sweep_name
from src.sweeping.progress_table import Display
from src.sweeping.scheduler import Driver, Listed, Source
from src.sweeping.search.request import Asked, samples_of

if TYPE_CHECKING:
    from src.sweeping.search.optuna_trials import Trials


def launch(
    loader: Any,
    master: DictConfig,
    points: Sequence[Sequence[str]],
    executor: Callable[[Path], Executor],
    warm_up: Callable[[], None] = lambda: None,
    outlived: bool = False,
) -> list[JobReturn]:
    """Run a sweep: check all that can be known of its jobs, then run those that are not finished.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        points: the words of the sweep; more lists than one where another sweeper than ours has made the points.
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
    check_section(Sweep, master.sweep, "sweep")
    words: list[list[str]] | None = None
    if master.sweep.resume:
        others = {word for words in points for word in words if not word.startswith("sweep.")}
        if others:
            raise UserError(f"{min(others)}: sweep.resume goes on with the jobs as they were frozen")
        folder = Path(master.sweep.resume)
        asked = Asked.recorded(Ledger.open(folder).trusted(), loader)  # before a lock would make a folder
    else:
        trust_own_config(master, (word for line in points for word in line))
        asked = Asked.typed(master, points, loader)
        words = asked.points()
        name = master.sweep.name or sweep_name(master, asked.keys(words))
        folder = Path(master.paths.outputs) / "sweeps" / name
    if master.sweep.dry_run:
        _print_dry_run(_entered(folder, loader, master, asked, words), master, outlived)
        return []
    with locked(folder):
        return _run(_entered(folder, loader, master, asked, words, warm_up), master, executor, outlived)


@dataclass
class _Sweep:
    """A sweep whose points are checked.

    Args:
        ledger: of the sweep.
        jobs: those that this command is about and that are known yet.
        composer: of further jobs.
        asked: how there may be further jobs; None where there are none.
        probes: a ledger of the ends of the ranges, and its jobs, where points are drawn.
    """

    ledger: Ledger
    jobs: list[Job]
    composer: Composer
    asked: Asked | None
    probes: tuple[Ledger, list[Job]] | None = None

    def samples(self) -> list[Config]:
        """Return the config of one job of each kind."""
        return samples_of(*(self.probes or (self.ledger, self.jobs)))


def _entered(
    folder: Path,
    loader: Any,
    master: DictConfig,
    asked: Asked | None,
    points: Sequence[Sequence[str]] | None,
    warm_up: Callable[[], None] = lambda: None,
) -> _Sweep:
    """Return a sweep with all its points in its ledger; without points, all that it has."""
    name = folder.name
    own_overrides = [] if master.sweep.resume else sys.argv[1:]
    exists = Ledger.exists(folder)
    ledger = Ledger.open(folder).trusted(own_overrides) if exists else Ledger.create(folder, name, sys.orig_argv)
    composer = Composer(loader, master, name)
    sweep = _Sweep(ledger, [], composer, asked)
    if asked is not None and asked.search.name != "grid":
        warm_up()
        sweep.probes = asked.probes(ledger, composer)  # few errors say what is wrong with all points
    if points is not None:
        if any(ledger.find(words) is None for words in points):
            warm_up()
        sweep.jobs = enter(ledger, composer, points)
    elif master.sweep.resume:
        sweep.jobs = ledger.jobs
    if sweep.probes is not None:
        ledger.head["base"] = ledger.head["base"] or sweep.probes[0].head["base"]
    return sweep


def _print_dry_run(sweep: _Sweep, master: DictConfig, outlived: bool) -> None:
    """Print what would be done, and what the jobs would be; of a search, the jobs at the ends of its ranges."""
    from src.sweeping.resource_estimate import print_plan, print_ranges

    asked, more = sweep.asked, 0
    if asked is not None and asked.learns:
        known = asked.known(sweep.ledger, sweep.samples())
        sweep.jobs = sweep.jobs or known
        more = asked.left(len(known))
    due = _plan(sweep.ledger, sweep.jobs, master, more, outlived)
    if asked is not None and sweep.probes is not None and asked.search.name == "optuna":
        print_ranges(asked.spaces[0], *sweep.probes)
    else:
        print_plan(sweep.ledger, sweep.jobs, sweep.ledger.states(), [job in due for job in sweep.jobs])


def _plan(ledger: Ledger, jobs: list[Job], master: DictConfig, more: int, outlived: bool) -> list[Job]:
    """Say what is going to happen, and return the jobs that are to run."""
    states = ledger.states() if outlived else _settled(ledger, jobs)
    due = [job for job in jobs if _is_due(states[job.number], master.sweep.retry_failed, outlived)]
    counts = [
        sum(ACTIONS[states[job.number].status] == action for job in jobs) for action in ("skip", "resume", "retry")
    ]
    proposed = f", and up to {more} more to be proposed" if more else ""
    echo(f"sweep {ledger.head['name']}: {len(jobs)} jobs in {ledger.folder}{_counted(*counts)}{proposed}", flush=True)
    if changed := ledger.code_changed():
        echo(f"note: {changed}; jobs run the code as it is now, on the configs as they were frozen", flush=True)
    return due


def _run(sweep: _Sweep, master: DictConfig, executor: Callable[[Path], Executor], outlived: bool) -> list[JobReturn]:
    ledger, asked = sweep.ledger, sweep.asked
    trials: Trials | None = None
    if asked is not None and asked.learns:
        trials = asked.trials(ledger, sweep.composer, sweep.samples())
        ledger.head["search"] = asked.record
        sweep.jobs = _merged(sweep.jobs, trials.jobs)
    more = trials.left if trials else 0
    due = _plan(ledger, sweep.jobs, master, more, outlived)
    ledger.save()
    source: Source = Listed(due)
    if trials is not None:
        trials.go_on_with(due)
        source = trials
    complete = True
    if source.more():
        runner = executor(ledger.folder)
        if isinstance(runner, Arranging):
            due, said = runner.arrange(ledger, due, known=trials is None)
            source = source if trials is not None else Listed(due)
            echo("\n".join(said), flush=True)
        with Display(len(sweep.jobs) + more, before=len(sweep.jobs) - len(due)) as display:
            complete = Driver(ledger, source, runner, display, sys.orig_argv).run()
    if trials is not None:
        sweep.jobs = _merged(sweep.jobs, trials.jobs)
    return _close(ledger, sweep.jobs, complete, trials)


def _merged(jobs: Iterable[Job], more: Iterable[Job]) -> list[Job]:
    return list({job.number: job for job in [*jobs, *more]}.values())


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


def _close(ledger: Ledger, jobs: list[Job], complete: bool, trials: "Trials | None" = None) -> list[JobReturn]:
    """Print the rankings as `src.compare` does, the Pareto front of several objectives, and how many jobs are done."""
    from src.comparison.console_table import print_ranking

    all_states = ledger.states()
    states = [all_states[job.number] for job in jobs]
    print_ranking([ledger.path(job) for job in jobs])
    if trials is not None:
        trials.print_front()
    finished, pruned = (sum(state.status == status for state in states) for status in ("finished", "pruned"))
    ended_early = f", {pruned} pruned" if pruned else ""
    rest = "" if complete else "; the same command goes on"
    echo(f"{finished} of {len(jobs)} jobs finished{ended_early}{rest}", flush=True)
    if not complete:
        again = shlex.quote(f"sweep.resume={ledger.folder}")
        raise KeyboardInterrupt(f"go on with: python -m src.train -m {again}")
    elsewhere = [
        f"{ledger.folder}/{job.slug}" for job, state in zip(jobs, states, strict=True) if state.status == "running"
    ]
    if elsewhere:
        raise JobsFailed(f"{len(elsewhere)} of {len(jobs)} jobs still run in another process, such as {elsewhere[0]}")
    failed = sum(state.status in ("failed", "pending", "interrupted") for state in states)
    if failed:
        raise JobsFailed(f"{failed} of {len(jobs)} jobs failed")
    return [_returned(job, state) for job, state in zip(jobs, states, strict=True)]


def _returned(job: Job, state: State) -> JobReturn:
    result = JobReturn(overrides=list(job.words), cfg=None, status=JobStatus.COMPLETED)
    result.return_value = state.value
    return result
