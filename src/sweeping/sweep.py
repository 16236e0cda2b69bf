"""Run a whole sweep: add its points to the ledger, check all of them, run the jobs, and print the ranking."""

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
from src.config.trust import trust_user_config
from src.config.validate import check_section
from src.core.console import echo
from src.core.errors import JobsFailed, UserError
from src.sweeping.job_composer import JobComposer, add_to_ledger
from src.sweeping.launchers.base import Executor, JobArranger
from src.sweeping.ledger import ACTIONS, Job, Ledger, State, locked
from src.sweeping.naming import sweep_name
from src.sweeping.progress_table import Display
from src.sweeping.scheduler import Driver, FixedJobs, JobSource
from src.sweeping.search.request import SearchRequest, samples_of

if TYPE_CHECKING:
    from src.sweeping.search.optuna_trials import Trials


def launch(
    loader: Any,
    master: DictConfig,
    points: Sequence[Sequence[str]],
    executor: Callable[[Path], Executor],
    preload: Callable[[], None] = lambda: None,
    detached: bool = False,
) -> list[JobReturn]:
    """Run a sweep: check the configs of all jobs, then run those that are not finished.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        points: the overrides of the sweep; several lists if another sweeper than ours expanded the points.
        executor: creates the executor for the sweep's folder; called only if there are jobs to run.
        preload: starts slow preparations that run while the points are composed.
        detached: whether jobs survive their driver: jobs that run already then belong to the executor, from an earlier command.

    Raises:
        UserError: if any job's config is invalid; no job was started then.
        JobsFailed: if some job failed, after all have ended.
        KeyboardInterrupt: after Ctrl-C; the same command resumes the sweep.
    """
    if master.resume is not None:
        raise UserError("resume=<folder> resumes one run, without -m; sweep.resume=<folder> resumes a sweep")
    check_section(Sweep, master.sweep, "sweep")
    overrides: list[list[str]] | None = None
    if master.sweep.resume:
        extra = {override for overrides in points for override in overrides if not override.startswith("sweep.")}
        if extra:
            raise UserError(
                f"{min(extra)}: sweep.resume runs the jobs as they were frozen, and accepts no other overrides"
            )
        folder = Path(master.sweep.resume)
        request = SearchRequest.from_ledger(
            Ledger.open(folder).trusted(), loader
        )  # before the lock, which would create a folder
    else:
        trust_user_config(master, (override for line in points for override in line))
        request = SearchRequest.from_command(master, points, loader)
        overrides = request.points()
        name = master.sweep.name or sweep_name(master, request.keys(overrides))
        folder = Path(master.paths.outputs) / "sweeps" / name
    if master.sweep.dry_run:
        _print_dry_run(_prepare(folder, loader, master, request, overrides), master, detached)
        return []
    with locked(folder):
        return _run(_prepare(folder, loader, master, request, overrides, preload), master, executor, detached)


@dataclass
class _PreparedSweep:
    """A sweep whose points are checked.

    Args:
        ledger: ledger of the sweep.
        jobs: jobs of this command, as far as they are known.
        composer: composer of more jobs.
        request: the search that proposes more jobs; None if there are no more.
        probes: a scratch ledger and its jobs, one for each end of the ranges, where points are sampled.
    """

    ledger: Ledger
    jobs: list[Job]
    composer: JobComposer
    request: SearchRequest | None
    probes: tuple[Ledger, list[Job]] | None = None

    def samples(self) -> list[Config]:
        """Return the config of one job of each kind."""
        return samples_of(*(self.probes or (self.ledger, self.jobs)))


def _prepare(
    folder: Path,
    loader: Any,
    master: DictConfig,
    request: SearchRequest | None,
    points: Sequence[Sequence[str]] | None,
    preload: Callable[[], None] = lambda: None,
) -> _PreparedSweep:
    """Return a sweep with all its points in its ledger; without points, with the jobs that the ledger has."""
    name = folder.name
    own_overrides = [] if master.sweep.resume else sys.argv[1:]
    exists = Ledger.exists(folder)
    ledger = Ledger.open(folder).trusted(own_overrides) if exists else Ledger.create(folder, name, sys.orig_argv)
    composer = JobComposer(loader, master, name)
    sweep = _PreparedSweep(ledger, [], composer, request)
    if request is not None and request.search.name != "grid":
        preload()
        sweep.probes = request.probes(ledger, composer)  # their few errors describe what is wrong with all points
    if points is not None:
        if any(ledger.find(overrides) is None for overrides in points):
            preload()
        sweep.jobs = add_to_ledger(ledger, composer, points)
    elif master.sweep.resume:
        sweep.jobs = ledger.jobs
    if sweep.probes is not None:
        ledger.head["base"] = ledger.head["base"] or sweep.probes[0].head["base"]
    return sweep


def _print_dry_run(sweep: _PreparedSweep, master: DictConfig, detached: bool) -> None:
    """Print the jobs and what would be done; for a search, the jobs at the ends of its ranges."""
    from src.sweeping.resource_estimate import print_plan, print_ranges

    request, more = sweep.request, 0
    if request is not None and request.learns:
        proposed = request.stored_jobs(sweep.ledger, sweep.samples())
        sweep.jobs = sweep.jobs or proposed
        more = request.remaining(len(proposed))
    due = _plan(sweep.ledger, sweep.jobs, master, more, detached)
    if request is not None and sweep.probes is not None and request.search.name == "optuna":
        print_ranges(request.spaces[0], *sweep.probes)
    else:
        print_plan(sweep.ledger, sweep.jobs, sweep.ledger.states(), [job in due for job in sweep.jobs])


def _plan(ledger: Ledger, jobs: list[Job], master: DictConfig, more: int, detached: bool) -> list[Job]:
    """Print a summary of the sweep, and return the jobs to run."""
    states = ledger.states() if detached else _wait_for_workers(ledger, jobs)
    due = [job for job in jobs if _is_due(states[job.number], master.sweep.retry_failed, detached)]
    counts = [
        sum(ACTIONS[states[job.number].status] == action for job in jobs) for action in ("skip", "resume", "retry")
    ]
    proposed = f", and up to {more} more to be proposed" if more else ""
    echo(
        f"sweep {ledger.head['name']}: {len(jobs)} jobs in {ledger.folder}{_format_counts(*counts)}{proposed}",
        flush=True,
    )
    if changed := ledger.code_changed():
        echo(f"note: {changed}; jobs run the current code on the frozen configs", flush=True)
    return due


def _run(
    sweep: _PreparedSweep, master: DictConfig, executor: Callable[[Path], Executor], detached: bool
) -> list[JobReturn]:
    ledger, request = sweep.ledger, sweep.request
    trials: Trials | None = None
    if request is not None and request.learns:
        trials = request.trials(ledger, sweep.composer, sweep.samples())
        ledger.head["search"] = request.record
        sweep.jobs = _merged(sweep.jobs, trials.jobs)
    more = trials.remaining if trials else 0
    due = _plan(ledger, sweep.jobs, master, more, detached)
    ledger.save()
    source: JobSource = FixedJobs(due)
    if trials is not None:
        trials.resume_jobs(due)
        source = trials
    complete = True
    if source.has_more():
        runner = executor(ledger.folder)
        if isinstance(runner, JobArranger):
            due, messages = runner.arrange(ledger, due, complete=trials is None)
            source = source if trials is not None else FixedJobs(due)
            echo("\n".join(messages), flush=True)
        with Display(len(sweep.jobs) + more, before=len(sweep.jobs) - len(due)) as display:
            complete = Driver(ledger, source, runner, display, sys.orig_argv).run()
    if trials is not None:
        sweep.jobs = _merged(sweep.jobs, trials.jobs)
    return _print_results(ledger, sweep.jobs, complete, trials)


def _merged(jobs: Iterable[Job], more: Iterable[Job]) -> list[Job]:
    return list({job.number: job for job in [*jobs, *more]}.values())


def _wait_for_workers(ledger: Ledger, jobs: list[Job]) -> dict[int, State]:
    """Return the state of each job; wait a few seconds for the workers of a driver that was just killed to end."""
    for _ in range(50):
        states = ledger.states()
        if not any(states[job.number].status == "running" for job in jobs):
            break
        time.sleep(0.1)
    return states


def _is_due(state: State, retry_failed: bool, detached: bool) -> bool:
    action = ACTIONS[state.status]
    is_adopted = action == "runs elsewhere" and detached
    return action in ("run", "resume") or is_adopted or (action == "retry" and retry_failed)


def _format_counts(finished: int, interrupted: int, failed: int) -> str:
    parts = [f"{finished} finished before", f"{interrupted} to resume", f"{failed} failed before"]
    nonzero = [part for part in parts if not part.startswith("0 ")]
    return f" ({', '.join(nonzero)})" if nonzero else ""


# ---- the end -----------------------------------------------------------------------------------------------------


def _print_results(ledger: Ledger, jobs: list[Job], complete: bool, trials: "Trials | None" = None) -> list[JobReturn]:
    """Print the rankings as `src.compare` does, the Pareto front of several objectives, and how many jobs are done."""
    from src.comparison.console_table import print_ranking

    all_states = ledger.states()
    states = [all_states[job.number] for job in jobs]
    print_ranking([ledger.path(job) for job in jobs])
    if trials is not None:
        trials.print_front()
    finished, pruned = (sum(state.status == status for state in states) for status in ("finished", "pruned"))
    ended_early = f", {pruned} pruned" if pruned else ""
    rest = "" if complete else "; the same command resumes the sweep"
    echo(f"{finished} of {len(jobs)} jobs finished{ended_early}{rest}", flush=True)
    if not complete:
        override = shlex.quote(f"sweep.resume={ledger.folder}")
        raise KeyboardInterrupt(f"resume with: python -m src.train -m {override}")
    elsewhere = [
        f"{ledger.folder}/{job.slug}" for job, state in zip(jobs, states, strict=True) if state.status == "running"
    ]
    if elsewhere:
        raise JobsFailed(f"{len(elsewhere)} of {len(jobs)} jobs still run in another process, such as {elsewhere[0]}")
    failed = sum(state.status in ("failed", "pending", "interrupted") for state in states)
    if failed:
        raise JobsFailed(f"{failed} of {len(jobs)} jobs failed")
    return [_job_return(job, state) for job, state in zip(jobs, states, strict=True)]


def _job_return(job: Job, state: State) -> JobReturn:
    result = JobReturn(overrides=list(job.overrides), cfg=None, status=JobStatus.COMPLETED)
    result.return_value = state.value
    return result
