"""A source of jobs that are trials of an Optuna study: proposed by it, or only judged by it while they run."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from src.compat.optuna_trial import continue_trial
from src.core.console import echo, number
from src.core.errors import UserError
from src.core.files import is_file_below
from src.core.tables import new_table, show
from src.run_store.run_folder import RunFolder
from src.sweeping.job_composer import Composer
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.messages import Progress
from src.sweeping.search.objectives import COSTS, Objective
from src.sweeping.search.optuna_study import explained
from src.sweeping.search.space import Space

REPEATS = 30
"""Proposals in a row of points that were proposed before, after which no others are expected."""


class Proposer:
    """Makes a job of what a study proposes.

    Args:
        ledger: of the sweep, which gets the job before it starts.
        composer: of its config.
        space: of the search.
        sampler: makes what proposes a trial, from its number.
        trials: different points that the study shall have.
    """

    def __init__(
        self, ledger: Ledger, composer: Composer, space: Space, sampler: Callable[[int], BaseSampler], trials: int
    ) -> None:
        self._ledger = ledger
        self._composer = composer
        self._space = space
        self._sampler = sampler
        self.trials = trials

    def propose(self, study: Study) -> Trial:
        """Return a new trial."""
        with explained(self._ledger.folder):
            study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
            return study.ask({axis.key: axis.distribution() for axis in self._space.axes})

    def job(self, trial: Trial | FrozenTrial) -> Job | None:
        """Return the job of a trial, entered in the ledger; None where its choices do not go together."""
        with explained(self._ledger.folder):
            chosen = [axis.word(trial.params[axis.key]) for axis in self._space.axes]
        words, label = self._space.point(chosen), self._space.label(chosen)
        if (known := self._ledger.find(words)) is not None:
            return known
        try:
            config = self._composer.config(words)
        except UserError as error:
            echo(f"not possible: {' '.join(label)}: {error}", flush=True)
            return None
        count = len(self._ledger.jobs)
        job = self._ledger.add(words, label, config.plain())
        if len(self._ledger.jobs) > count:
            self._ledger.append(job)
        return job


def jobs_of(study: Study, ledger: Ledger) -> list[Job]:
    """Return the jobs of the trials of a study, each once."""
    jobs = [_job_of(trial, ledger) for trial in study.get_trials(deepcopy=False)]
    return list({job.number: job for job in jobs if job is not None}.values())


def _job_of(trial: FrozenTrial, ledger: Ledger) -> Job | None:
    return ledger.with_digest(trial.user_attrs.get("job", "").rpartition("_")[2])


class Trials:
    """The jobs of a study. What became of a job is told by its run.json; the study follows it.

    Args:
        ledger: of the sweep.
        study: of the search, which may have trials from before.
        objectives: of the study.
        pruner: that judges running jobs by the only objective.
        proposer: of further jobs; None where all are in the ledger.
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
        self._watched = objectives[0].name if len(objectives) == 1 and objectives[0].name not in COSTS else None
        self._prunes = not isinstance(pruner, NopPruner)
        study.pruner = pruner
        self._due: deque[Job] = deque()
        self._open: dict[int, list[Trial]] = {}
        self._reported: dict[int, int] = {}
        for frozen in study.get_trials(states=(TrialState.RUNNING,)):
            self._recover(frozen)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the study's trials, each once."""
        return jobs_of(self._study, self._ledger)

    @property
    def left(self) -> int:
        """How many jobs may still be proposed: none once nothing new has come for long."""
        if self._proposer is None:
            return 0
        proposed: dict[str, None] = {}
        repeated = 0
        for trial in self._all():
            if not trial.user_attrs.get("again"):
                name = trial.user_attrs.get("job", f"impossible {trial.number}")
                repeated = repeated + 1 if name in proposed else 0
                proposed[name] = None
        return max(self._proposer.trials - len(proposed), 0) if repeated < REPEATS else 0

    def go_on_with(self, jobs: Iterable[Job]) -> None:
        """Begin with these jobs, which are in the ledger; what is known of all others is told to the study."""
        self._due = deque(jobs)
        due = {job.number for job in self._due}
        for place in [place for place in self._open if place not in due]:
            job = self._ledger.jobs[place - 1]
            self.tell(job, self._ledger.refresh(job))

    # ---- Source --------------------------------------------------------------------------------------------------

    def ask(self) -> Job | None:
        if self._due:
            job = self._due.popleft()
            if job.number not in self._open:
                self._open[job.number] = [self._again(job)]
            return job
        while self.left:
            assert self._proposer is not None
            trial = self._proposer.propose(self._study)
            if (proposed := self._entered(trial)) is not None and self._is_new(proposed, trial):
                return proposed
        return None

    def more(self) -> bool:
        return bool(self._due or self.left)

    def report(self, job: Job, progress: Progress) -> bool:
        if self._watched is None or (value := progress.metrics.get(self._watched)) is None:
            return True
        trials = self._open[job.number]
        for trial in trials:
            self._note(trial, progress.epoch + 1, value)
        with explained(self._ledger.folder):
            return not (self._prunes and trials[0].should_prune())

    def tell(self, job: Job, state: State) -> None:
        if state.status not in ("finished", "pruned", "failed"):
            return  # it goes on another time
        for trial in self._open.pop(job.number, []):
            self._tell(trial, job, state)

    # ---- the end -------------------------------------------------------------------------------------------------

    def print_front(self) -> None:
        """Print the jobs that no other is better than in all objectives, where there are several."""
        if len(self._objectives) == 1:
            return
        best = {trial.user_attrs.get("job"): trial for trial in self._study.best_trials}
        names = [objective.name for objective in self._objectives]
        table = new_table(*names, "job", "folder", title=f"Pareto front: {len(best)} jobs", numbers=tuple(names))
        for trial in sorted(best.values(), key=lambda trial: trial.values):
            if (job := _job_of(trial, self._ledger)) is not None:
                pairs = zip(names, trial.values, strict=True)
                shown = [f"{value:,.0f}" if name in COSTS[:2] else number(value) for name, value in pairs]
                table.add_row(*shown, str(job), str(self._ledger.path(job)))
        show(table)

    # ---- trials --------------------------------------------------------------------------------------------------

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _recover(self, frozen: FrozenTrial) -> None:
        """Take up a trial that had not ended when the search was last stopped, perhaps before its job was written down."""
        trial = continue_trial(self._study, frozen)
        self._reported[trial.number] = max(frozen.intermediate_values, default=0)
        job = _job_of(frozen, self._ledger) or (self._entered(trial) if self._proposer else None)
        if job is not None:
            self._open.setdefault(job.number, []).append(trial)

    def _entered(self, trial: Trial) -> Job | None:
        assert self._proposer is not None
        job = self._proposer.job(trial)
        if job is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("job", job.slug)
        return job

    def _is_new(self, job: Job, trial: Trial) -> bool:
        """Whether a proposed job is to be run; the study is told of one that has been, or is running, the same."""
        if job.number in self._open:
            self._open[job.number].append(trial)
            return False
        self._open[job.number] = [trial]
        state = self._ledger.refresh(job)
        self.tell(job, state)
        return job.number in self._open

    def _again(self, job: Job) -> Trial:
        """Return a trial for a job that has none which goes on: it failed before, or was no trial of this study."""
        before = [trial for trial in self._all() if trial.user_attrs.get("job") == job.slug]
        params, distributions = (before[-1].params, before[-1].distributions) if before else ({}, {})
        attributes = {"job": job.slug, "again": True}
        with explained(self._ledger.folder):
            running = create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
            )
            self._study.add_trial(running)
            return continue_trial(self._study, self._all()[-1])

    def _note(self, trial: Trial, epochs: int, value: float) -> None:
        if epochs > self._reported.get(trial.number, 0):  # a resumed job repeats what followed its last checkpoint
            with explained(self._ledger.folder):
                trial.report(value, epochs)
            self._reported[trial.number] = epochs

    def _tell(self, trial: Trial, job: Job, state: State) -> None:
        path = self._ledger.path(job)
        if self._watched and is_file_below(path, "run.json"):
            for row in RunFolder(path, {}).metrics():  # events may have been lost with a driver
                epoch, measured = row.get("epoch"), row.get(self._watched)
                if isinstance(epoch, int) and epoch >= 0 and isinstance(measured, int | float):
                    self._note(trial, epoch + 1, measured)
        values: list[float] = []
        if state.status == "finished":
            record = RunFolder.open(path).record
            values = [value for goal in self._objectives if (value := goal.value(record)) is not None]
        diverged = state.error.startswith("FloatingPointError") and len(self._objectives) == 1
        with explained(self._ledger.folder):
            if len(values) == len(self._objectives):
                self._study.tell(trial, values)
            elif state.status == "pruned" or diverged:  # worse than all others, and not only unknown
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, state=TrialState.FAIL)
