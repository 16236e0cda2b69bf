"""A job source whose jobs are trials of an Optuna study, which proposes them or only decides which to prune."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from src.compat.optuna_trial import continue_trial
from src.core.console import echo, format_number
from src.core.errors import UserError
from src.core.files import is_file_below
from src.core.tables import new_table, show
from src.run_store.run_folder import RunFolder
from src.sweeping.job_composer import JobComposer
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.messages import Progress
from src.sweeping.search.objectives import COSTS, Objective
from src.sweeping.search.optuna_study import study_errors
from src.sweeping.search.space import Space

MAX_REPEATED_PROPOSALS = 30
"""Number of consecutive proposals of known points after which the search ends."""


class Proposer:
    """Creates jobs from the proposals of a study.

    Args:
        ledger: ledger of the sweep; a job is added to it before it starts.
        composer: composes its config.
        space: space of the search.
        sampler: returns the sampler for the number of a trial.
        trials: number of distinct points to propose.
    """

    def __init__(
        self, ledger: Ledger, composer: JobComposer, space: Space, sampler: Callable[[int], BaseSampler], trials: int
    ) -> None:
        self._ledger = ledger
        self._composer = composer
        self._space = space
        self._sampler = sampler
        self.trials = trials

    def propose(self, study: Study) -> Trial:
        """Return a new trial."""
        with study_errors(self._ledger.folder):
            study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
            return study.ask({axis.key: axis.distribution() for axis in self._space.axes})

    def job(self, trial: Trial | FrozenTrial) -> Job | None:
        """Return the job of a trial after adding it to the ledger; None if its config is invalid."""
        with study_errors(self._ledger.folder):
            values = [axis.format_value(trial.params[axis.key]) for axis in self._space.axes]
        overrides, label = self._space.point(values), self._space.label(values)
        if (existing := self._ledger.find(overrides)) is not None:
            return existing
        try:
            config = self._composer.config(overrides)
        except UserError as error:
            echo(f"invalid point: {' '.join(label)}: {error}", flush=True)
            return None
        count = len(self._ledger.jobs)
        job = self._ledger.add(overrides, label, config.plain())
        if len(self._ledger.jobs) > count:
            self._ledger.append(job)
        return job


def jobs_of(study: Study, ledger: Ledger) -> list[Job]:
    """Return the distinct jobs of the trials of a study."""
    jobs = [_job_of(trial, ledger) for trial in study.get_trials(deepcopy=False)]
    return list({job.number: job for job in jobs if job is not None}.values())


def _job_of(trial: FrozenTrial, ledger: Ledger) -> Job | None:
    return ledger.with_digest(trial.user_attrs.get("job", "").rpartition("_")[2])


class Trials:
    """The jobs of a study. The state of a job is that of its run.json; the study is updated from it.

    Args:
        ledger: ledger of the sweep.
        study: study of the search; it may have trials of earlier commands.
        objectives: objectives of the study.
        pruner: decides about running jobs, by the only objective.
        proposer: proposer of more jobs; None if all jobs are in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        study: Study,
        objectives: Sequence[Objective],
        pruner: BasePruner,
        proposer: Proposer | None = None,
    ) -> None:
        self._ledger = ledger
        self._study = study
        self._objectives = objectives
        self._proposer = proposer
        self._metric = objectives[0].name if len(objectives) == 1 and objectives[0].name not in COSTS else None
        self._prunes = not isinstance(pruner, NopPruner)
        study.pruner = pruner
        self._due: deque[Job] = deque()
        self._running_trials: dict[int, list[Trial]] = {}
        self._reported: dict[int, int] = {}
        for frozen in study.get_trials(states=(TrialState.RUNNING,)):
            self._recover(frozen)

    @property
    def jobs(self) -> list[Job]:
        """The distinct jobs of the study's trials."""
        return jobs_of(self._study, self._ledger)

    @property
    def remaining(self) -> int:
        """Number of jobs that may still be proposed; 0 after `MAX_REPEATED_PROPOSALS` known points in a row."""
        if self._proposer is None:
            return 0
        proposed: dict[str, None] = {}
        repeated = 0
        for trial in self._trials():
            if not trial.user_attrs.get("again"):
                name = trial.user_attrs.get("job", f"impossible {trial.number}")
                repeated = repeated + 1 if name in proposed else 0
                proposed[name] = None
        return max(self._proposer.trials - len(proposed), 0) if repeated < MAX_REPEATED_PROPOSALS else 0

    def resume_jobs(self, jobs: Iterable[Job]) -> None:
        """Start with these jobs, which are in the ledger; report the state of all others to the study."""
        self._due = deque(jobs)
        due = {job.number for job in self._due}
        for job_number in [key for key in self._running_trials if key not in due]:
            job = self._ledger.jobs[job_number - 1]
            self.report_end(job, self._ledger.refresh(job))

    # ---- JobSource --------------------------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        if self._due:
            job = self._due.popleft()
            if job.number not in self._running_trials:
                self._running_trials[job.number] = [self._restart(job)]
            return job
        while self.remaining:
            assert self._proposer is not None
            trial = self._proposer.propose(self._study)
            if (proposed := self._job_of_trial(trial)) is not None and self._is_new(proposed, trial):
                return proposed
        return None

    def has_more(self) -> bool:
        return bool(self._due or self.remaining)

    def report_epoch(self, job: Job, progress: Progress) -> bool:
        if self._metric is None or (value := progress.metrics.get(self._metric)) is None:
            return True
        trials = self._running_trials[job.number]
        for trial in trials:
            self._report(trial, progress.epoch + 1, value)
        with study_errors(self._ledger.folder):
            return not (self._prunes and trials[0].should_prune())

    def report_end(self, job: Job, state: State) -> None:
        if state.status not in ("finished", "pruned", "failed"):
            return  # it will be resumed
        for trial in self._running_trials.pop(job.number, []):
            self._end_trial(trial, job, state)

    # ---- results -------------------------------------------------------------------------------------------------

    def print_front(self) -> None:
        """Print the Pareto front, if there are several objectives."""
        if len(self._objectives) == 1:
            return
        best = {trial.user_attrs.get("job"): trial for trial in self._study.best_trials}
        names = [objective.name for objective in self._objectives]
        table = new_table(*names, "job", "folder", title=f"Pareto front: {len(best)} jobs", numbers=tuple(names))
        for trial in sorted(best.values(), key=lambda trial: trial.values):
            if (job := _job_of(trial, self._ledger)) is not None:
                pairs = zip(names, trial.values, strict=True)
                cells = [f"{value:,.0f}" if name in COSTS[:2] else format_number(value) for name, value in pairs]
                table.add_row(*cells, str(job), str(self._ledger.path(job)))
        show(table)

    # ---- trials --------------------------------------------------------------------------------------------------

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _recover(self, frozen: FrozenTrial) -> None:
        """Continue a trial that was running when the search was stopped, possibly before its job was added to the ledger."""
        trial = continue_trial(self._study, frozen)
        self._reported[trial.number] = max(frozen.intermediate_values, default=0)
        job = _job_of(frozen, self._ledger) or (self._job_of_trial(trial) if self._proposer else None)
        if job is not None:
            self._running_trials.setdefault(job.number, []).append(trial)

    def _job_of_trial(self, trial: Trial) -> Job | None:
        assert self._proposer is not None
        job = self._proposer.job(trial)
        if job is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("job", job.slug)
        return job

    def _is_new(self, job: Job, trial: Trial) -> bool:
        """Return whether to run a proposed job; report the result to the study if the same job has ended or is running."""
        if job.number in self._running_trials:
            self._running_trials[job.number].append(trial)
            return False
        self._running_trials[job.number] = [trial]
        state = self._ledger.refresh(job)
        self.report_end(job, state)
        return job.number in self._running_trials

    def _restart(self, job: Job) -> Trial:
        """Return a new trial for a job without a running one: it failed before, or was not a trial of this study."""
        before = [trial for trial in self._trials() if trial.user_attrs.get("job") == job.slug]
        params, distributions = (before[-1].params, before[-1].distributions) if before else ({}, {})
        attributes = {"job": job.slug, "again": True}
        with study_errors(self._ledger.folder):
            running = create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
            )
            self._study.add_trial(running)
            return continue_trial(self._study, self._trials()[-1])

    def _report(self, trial: Trial, epochs: int, value: float) -> None:
        if epochs > self._reported.get(trial.number, 0):  # a resumed job repeats the epochs after its last checkpoint
            with study_errors(self._ledger.folder):
                trial.report(value, epochs)
            self._reported[trial.number] = epochs

    def _end_trial(self, trial: Trial, job: Job, state: State) -> None:
        path = self._ledger.path(job)
        if self._metric and is_file_below(path, "run.json"):
            for row in RunFolder(path, {}).metrics():  # events may have been lost when a driver was killed
                epoch, metric = row.get("epoch"), row.get(self._metric)
                if isinstance(epoch, int) and epoch >= 0 and isinstance(metric, int | float):
                    self._report(trial, epoch + 1, metric)
        values: list[float] = []
        if state.status == "finished":
            record = RunFolder.open(path).record
            values = [value for objective in self._objectives if (value := objective.value(record)) is not None]
        diverged = state.error.startswith("FloatingPointError") and len(self._objectives) == 1
        with study_errors(self._ledger.folder):
            if len(values) == len(self._objectives):
                self._study.tell(trial, values)
            elif state.status == "pruned" or diverged:  # worse than all others, not just unknown
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, state=TrialState.FAIL)
