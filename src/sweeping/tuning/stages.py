"""The textbook's tuning order: each stage is an ordinary sweep that starts from the best job so far (Hyperparameter Tuning
Order).

The only state is that of the sweeps: the same command, run again, finds their finished jobs and gets the same result.
"""

import hashlib
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from src.config.groups import CONF, search_roots, sweeps
from src.config.isolated_hydra import isolated_hydra
from src.config.overrides import quote_override
from src.config.schema.run import Config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import JobsFailed, UserError
from src.run_store.config_hash import config_hash
from src.sweeping.job_composer import JobComposer
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.search.space import Space, Values

START = "start"
ORDER = ("learning rate", "batch size", "architecture", "regularization", "scheduler")
MIN_JOBS = 2
"""Minimum number of jobs of a stage that varies anything."""
MIN_BUDGET = 1 + MIN_JOBS * len(ORDER)


@dataclass(frozen=True)
class Best:
    """The best job so far.

    Args:
        overrides: overrides of its command line.
        job: in its ledger.
        path: its run folder.
        state: its metric and value.
    """

    overrides: tuple[str, ...]
    job: Job
    path: Path
    state: State


@dataclass
class Stage:
    """What a stage of the tuning did.

    Args:
        name: one of `ORDER`, or `START`.
        best: after it.
        before: the best before it; None at the start.
        axes: what it varied.
        jobs: each with its state.
        folders: folders of its sweeps.
    """

    name: str
    best: Best
    before: Best | None = None
    axes: list[str] = field(default_factory=list)
    jobs: list[tuple[Job, State]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """How much better the best is than before; 0 where no job was better."""
        if self.before is None:
            return 0.0
        assert self.before.state.value is not None and self.best.state.value is not None
        difference = self.before.state.value - self.best.state.value
        return difference if self.best.state.mode == "min" else -difference

    @property
    def chosen(self) -> list[str]:
        """The overrides that this stage changed."""
        return (
            []
            if self.before is None
            else [override for override in self.best.overrides if override not in self.before.overrides]
        )


class Tuning:
    """Runs the five stages.

    Args:
        overrides: overrides of a run, none of which varies a key.
        budget: maximum number of jobs in total; None trains all points of the ranges in `sweeps/`.
        run_sweep: runs a sweep, given its command line.
    """

    def __init__(self, overrides: Sequence[str], budget: int | None, run_sweep: Callable[[list[str]], None]) -> None:
        self._sweep_overrides = tuple(override for override in overrides if override.startswith(_SWEEP_PREFIXES))
        self._search_path = [override for override in self._sweep_overrides if override.startswith("hydra.searchpath=")]
        space = Space.of(override for override in overrides if override not in self._sweep_overrides)
        if space.axes:
            raise UserError(f"{space.axes[0].key}: tuning varies the keys itself; give a single value, or none")
        if budget is not None and budget < MIN_BUDGET:
            raise UserError(
                f"budget={budget}: one starting job and {MIN_JOBS} for each of {len(ORDER)} stages are "
                f"{MIN_BUDGET}; use budget={MIN_BUDGET} or more"
            )
        self.start = self._config(space.fixed)
        self.overrides = tuple(override for override in space.fixed if not override.startswith("paths.outputs="))
        self.budget = budget
        self._run_sweep = run_sweep
        self._remaining = math.inf if budget is None else budget
        relevant = [
            override for override in self.overrides if not override.startswith(("paths.", "logger", "tags", "notes"))
        ]
        digest = hashlib.sha256("\n".join(relevant).encode()).hexdigest()[:6]
        self.name = f"{self.start.model.name}-{self.start.datamodule.name}-{digest}"
        self.folder = self.start.paths.outputs / "tune" / self.name
        self._outputs = quote_override(f"paths.outputs={self.folder}")

    @property
    def config_folders(self) -> list[str]:
        """A user's own config folders, as entries of ``hydra.searchpath``."""
        return [f"file://{root.absolute()}" for root in search_roots(self._search_path) if root != CONF]

    def run(self) -> Iterator[Stage]:
        """Run the stages, and yield each after its sweeps have ended.

        Raises:
            UserError: if the overrides are not a valid run, or if the first job fails.
            KeyboardInterrupt: after Ctrl-C; the same command continues.
        """
        folder, jobs = self._sweep(f"{self.name}-0-start", self.overrides, [], 1)
        best = self._best(folder, jobs, None)
        if best is None:
            raise UserError(f"the first job did not finish: {folder}")
        yield Stage(START, best, None, [], jobs, [folder])
        for number, name in enumerate(ORDER, start=1):
            before = best
            stage = Stage(name, best, before)
            for part, range_name in enumerate(_ranges(name)):
                axes = self._axes(range_name(self._config(best.overrides)), best)
                if not axes:
                    continue
                share = self._share(number, math.prod(len(axis.values) for axis in axes))
                slug = f"{self.name}-{number}-{name.replace(' ', '-')}{'-parameters' if part else ''}"
                folder, jobs = self._sweep(slug, best.overrides, axes, share)
                best = self._best(folder, jobs, best) or best
                stage.axes += [axis.key for axis in axes]
                stage.jobs += jobs
                stage.folders.append(folder)
            stage.best = best
            yield stage

    # ---- a stage -------------------------------------------------------------------------------------------------

    def _share(self, number: int, size: int) -> int:
        """Return how many of `size` points a stage may train: an equal share of the remaining budget."""
        part = self._remaining / (len(ORDER) + 1 - number)
        return size if part >= size else max(int(part), MIN_JOBS)

    def _sweep(
        self, name: str, overrides: Sequence[str], axes: Sequence[Values], share: int
    ) -> tuple[Path, list[tuple[Job, State]]]:
        """Run one sweep, and return its folder and its jobs with their states."""
        for path in (self.folder / "sweeps", self.folder / "sweeps" / name):
            if path.is_symlink():
                raise UserError(f"{path}: this is a link; the sweeps of a tuning are within its folder")
        varied = [f"{axis.key}={','.join(axis.values)}" for axis in axes]
        if len(axes) == 1 and share < len(axes[0].values):
            varied = [f"{axes[0].key}={','.join(thinned(axes[0].values, share))}"]
        elif share < math.prod(len(axis.values) for axis in axes):
            varied += ["search=random", f"search.trials={share}"]
        keys = {axis.key for axis in axes}
        base = [override for override in overrides if override.partition("=")[0] not in keys]
        command = [*base, *varied, *self._sweep_overrides, self._outputs, f"sweep.name={name}"]
        echo(f"\n$ python -m src.train -m {shlex.join(command)}", flush=True)
        with suppress(JobsFailed):  # each failure was reported already; the stage uses the other jobs
            self._run_sweep(["-m", *command])
        folder = self.folder / "sweeps" / name
        ledger = Ledger.open(folder).trusted(self._sweep_overrides)
        states = ledger.states()
        shared = set(Space.of([*base, self._outputs]).fixed)
        chosen = Space.of(override for override in varied if not override.startswith("search"))
        possible = {*shared, *chosen.fixed, *(f"{axis.key}={value}" for axis in chosen.axes for value in axis.probes())}
        jobs = [  # the overrides of a ledger go into later commands: accept no others than those requested
            (job, states[job.number]) for job in ledger.jobs if shared <= set(job.overrides) <= possible
        ]
        self._remaining -= len(jobs)
        return folder, jobs

    def _best(self, folder: Path, jobs: list[tuple[Job, State]], before: Best | None) -> Best | None:
        """Return the best finished job if it is better than the best before."""
        done = [(job, state) for job, state in jobs if state.status == "finished" and state.value is not None]
        if not done:
            return None
        sign = 1 if done[0][1].mode == "min" else -1
        job, state = min(done, key=lambda entry: sign * float(entry[1].value or 0.0))
        if before is not None and sign * float(state.value or 0.0) >= sign * float(before.state.value or 0.0):
            return None
        overrides = tuple(override for override in job.overrides if override != self._outputs)
        return Best(overrides, job, folder / job.slug, state)

    def _axes(self, name: str, best: Best) -> list[Values]:
        """Return the axes of a range with the values that are valid for this run. A single axis excludes the value of the best
        job so far, which need not be trained again.
        """
        if name not in sweeps():
            return []
        axes = []
        with isolated_hydra():
            loader = GlobalHydra.instance().config_loader()
            ranges = loader.load_configuration("train", [f"+sweeps={name}"], RunMode.MULTIRUN).hydra.sweeper.params
            master = loader.load_configuration("train", self._search_path, RunMode.MULTIRUN)
            composer = JobComposer(loader, master, self.name)
            for axis in Space.of(f"{key}={text}" for key, text in ranges.items()).axes:
                assert isinstance(axis, Values)
                base = [override for override in best.overrides if override.partition("=")[0] != axis.key]
                hashes = {value: _hash(composer, [*base, f"{axis.key}={value}"]) for value in axis.values}
                excluded = {None, best.job.digest} if len(ranges) == 1 else {None}
                possible = [value for value, digest in hashes.items() if digest not in excluded]
                if len(possible) > (len(ranges) > 1):  # among several axes, one with a single value does not vary
                    axes.append(Values(axis.key, tuple(possible)))
        return axes

    def _config(self, overrides: Sequence[str]) -> Config:
        from src.config.compose import compose

        return check(compose([*self._search_path, *overrides]))


_SWEEP_PREFIXES = ("hydra.", "hydra/", "search.pruner", "search.warmup", "search.startup", "search.reduction", "sweep.")


def _ranges(name: str) -> list[Callable[[Config], str]]:
    """Return, for each part of a stage, a function from the best config so far to the name of a file in `sweeps/`."""
    if name == "architecture":
        return [lambda config: f"architecture_{config.model.name}"]
    number = ORDER.index(name) + 1
    first = f"stage_{number}_{name.replace(' ', '_')}"
    if name == "scheduler":
        return [lambda config: first, lambda config: f"scheduler_{config.scheduler.name}"]
    return [lambda config: first]


def _hash(composer: JobComposer, overrides: Sequence[str]) -> str | None:
    """Return the hash of a point's config; None if it is invalid."""
    try:
        return config_hash(composer.config(overrides).plain())
    except UserError:
        return None


def thinned(values: Sequence[str], count: int) -> list[str]:
    """Return `count` values: the middle one of each of `count` equal parts."""
    assert 0 < count <= len(values)
    return [values[int((part + 0.5) * len(values) / count)] for part in range(count)]


def count_of(stages: Sequence[Stage]) -> int:
    """Return how many jobs the stages had."""
    return sum(len(stage.jobs) for stage in stages)
