"""The textbook's tuning order, each stage an ordinary sweep from the best of the stage before (Hyperparameter Tuning Order).

Nothing is remembered but the sweeps: given again, the same command finds their finished jobs and comes to the same best.
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
from src.config.isolated_hydra import own_hydra
from src.config.overrides import readable
from src.config.schema.run import Config
from src.core.console import echo
from src.core.errors import JobsFailed, UserError
from src.run_store.config_hash import config_hash
from src.sweeping.job_composer import Composer
from src.sweeping.ledger import Job, Ledger, State
from src.sweeping.search.space import Space, Values

START = "start"
ORDER = ("learning rate", "batch size", "architecture", "regularization", "scheduler")
FEWEST = 2
"""Jobs of a stage that has anything to vary."""
SMALLEST_BUDGET = 1 + FEWEST * len(ORDER)


@dataclass(frozen=True)
class Best:
    """The best job so far.

    Args:
        words: of its command line.
        job: in its ledger.
        path: its run folder.
        state: its metric and value.
    """

    words: tuple[str, ...]
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
        folders: of its sweeps.
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
        """The words that made the difference."""
        return [] if self.before is None else [word for word in self.best.words if word not in self.before.words]


class Tuning:
    """Runs the five stages.

    Args:
        words: of a run, without any that vary.
        budget: the most jobs that may be trained in all; None is as many as the ranges of `sweeps/` have.
        run_sweep: runs a sweep from its command line.
    """

    def __init__(self, words: Sequence[str], budget: int | None, run_sweep: Callable[[list[str]], None]) -> None:
        self._ours = tuple(word for word in words if word.startswith(_OF_THE_SWEEPS))
        self._search_path = [word for word in self._ours if word.startswith("hydra.searchpath=")]
        space = Space.of(word for word in words if word not in self._ours)
        if space.axes:
            raise UserError(f"{space.axes[0].key}: the stages vary keys one after the other; give one value, or none")
        if budget is not None and budget < SMALLEST_BUDGET:
            raise UserError(
                f"budget={budget}: one job to start from and {FEWEST} for each of {len(ORDER)} stages make "
                f"{SMALLEST_BUDGET}; give budget={SMALLEST_BUDGET} or more"
            )
        self.start = self._config(space.fixed)
        self.words = tuple(word for word in space.fixed if not word.startswith("paths.outputs="))
        self.budget = budget
        self._run_sweep = run_sweep
        self._left = math.inf if budget is None else budget
        relevant = [word for word in self.words if not word.startswith(("paths.", "logger", "tags", "notes"))]
        digest = hashlib.sha256("\n".join(relevant).encode()).hexdigest()[:6]
        self.name = f"{self.start.model.name}-{self.start.datamodule.name}-{digest}"
        self.folder = self.start.paths.outputs / "tune" / self.name
        self._outputs = readable(f"paths.outputs={self.folder}")

    @property
    def config_folders(self) -> list[str]:
        """A user's own config folders, as entries of ``hydra.searchpath``."""
        return [f"file://{root.absolute()}" for root in search_roots(self._search_path) if root != CONF]

    def run(self) -> Iterator[Stage]:
        """Run the stages, and yield each when its sweeps have ended.

        Raises:
            UserError: if the words make no run, or if the very first job fails.
            KeyboardInterrupt: after Ctrl-C; the same command goes on.
        """
        folder, jobs = self._sweep(f"{self.name}-0-start", self.words, [], 1)
        best = self._best(folder, jobs, None)
        if best is None:
            raise UserError(f"the first job did not finish: {folder}")
        yield Stage(START, best, None, [], jobs, [folder])
        for number, name in enumerate(ORDER, start=1):
            before = best
            stage = Stage(name, best, before)
            for place, ranges in enumerate(_ranges(name)):
                axes = self._axes(ranges(self._config(best.words)), best)
                if not axes:
                    continue
                share = self._share(number, math.prod(len(axis.words) for axis in axes))
                slug = f"{self.name}-{number}-{name.replace(' ', '-')}{'-parameters' if place else ''}"
                folder, jobs = self._sweep(slug, best.words, axes, share)
                best = self._best(folder, jobs, best) or best
                stage.axes += [axis.key for axis in axes]
                stage.jobs += jobs
                stage.folders.append(folder)
            stage.best = best
            yield stage

    # ---- a stage -------------------------------------------------------------------------------------------------

    def _share(self, number: int, size: int) -> int:
        """Return how many of so many points a stage may train: an equal part of what is left, and the rest for others."""
        part = self._left / (len(ORDER) + 1 - number)
        return size if part >= size else max(int(part), FEWEST)

    def _sweep(
        self, name: str, words: Sequence[str], axes: Sequence[Values], share: int
    ) -> tuple[Path, list[tuple[Job, State]]]:
        """Run one sweep, and return its folder and what became of its jobs."""
        for place in (self.folder / "sweeps", self.folder / "sweeps" / name):
            if place.is_symlink():
                raise UserError(f"{place}: this is a link; the sweeps of a tuning lie within its folder")
        varied = [f"{axis.key}={','.join(axis.words)}" for axis in axes]
        if len(axes) == 1 and share < len(axes[0].words):
            varied = [f"{axes[0].key}={','.join(thinned(axes[0].words, share))}"]
        elif share < math.prod(len(axis.words) for axis in axes):
            varied += ["search=random", f"search.trials={share}"]
        keys = {axis.key for axis in axes}
        base = [word for word in words if word.partition("=")[0] not in keys]
        command = [*base, *varied, *self._ours, self._outputs, f"sweep.name={name}"]
        echo(f"\n$ python -m src.train -m {shlex.join(command)}", flush=True)
        with suppress(JobsFailed):  # each was told when it failed, and the others are what the stage is for
            self._run_sweep(["-m", *command])
        folder = self.folder / "sweeps" / name
        ledger = Ledger.open(folder).trusted(self._ours)
        states = ledger.states()
        shared = set(Space.of([*base, self._outputs]).fixed)
        chosen = Space.of(word for word in varied if not word.startswith("search"))
        possible = {*shared, *chosen.fixed, *(f"{axis.key}={value}" for axis in chosen.axes for value in axis.probes())}
        jobs = [  # the words of a ledger go into further commands: no others than those that were asked for
            (job, states[job.number]) for job in ledger.jobs if shared <= set(job.words) <= possible
        ]
        self._left -= len(jobs)
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
        words = tuple(word for word in job.words if word != self._outputs)
        return Best(words, job, folder / job.slug, state)

    def _axes(self, name: str, best: Best) -> list[Values]:
        """Return what a range varies, as far as it can be varied in this run; of a single key not the value of the best so
        far, which need not be trained again.
        """
        if name not in sweeps():
            return []
        axes = []
        with own_hydra():
            loader = GlobalHydra.instance().config_loader()
            ranges = loader.load_configuration("train", [f"+sweeps={name}"], RunMode.MULTIRUN).hydra.sweeper.params
            master = loader.load_configuration("train", self._search_path, RunMode.MULTIRUN)
            composer = Composer(loader, master, self.name)
            for axis in Space.of(f"{key}={text}" for key, text in ranges.items()).axes:
                assert isinstance(axis, Values)
                base = [word for word in best.words if word.partition("=")[0] != axis.key]
                hashes = {value: _hash(composer, [*base, f"{axis.key}={value}"]) for value in axis.words}
                known = {None, best.job.digest} if len(ranges) == 1 else {None}
                possible = [value for value, digest in hashes.items() if digest not in known]
                if len(possible) > (len(ranges) > 1):  # of several keys one with a single value does not vary
                    axes.append(Values(axis.key, tuple(possible)))
        return axes

    def _config(self, words: Sequence[str]) -> Config:
        from src.config.compose import compose
        from src.config.validate import check

        return check(compose([*self._search_path, *words]))


_OF_THE_SWEEPS = ("hydra.", "hydra/", "search.pruner", "search.warmup", "search.startup", "search.reduction", "sweep.")


def _ranges(name: str) -> list[Callable[[Config], str]]:
    """Return what tells, from the best config so far, the file of `sweeps/` that each part of a stage varies."""
    if name == "architecture":
        return [lambda config: f"architecture_{config.model.name}"]
    number = ORDER.index(name) + 1
    first = f"stage_{number}_{name.replace(' ', '_')}"
    if name == "scheduler":
        return [lambda config: first, lambda config: f"scheduler_{config.scheduler.name}"]
    return [lambda config: first]


def _hash(composer: Composer, words: Sequence[str]) -> str | None:
    """Return the hash of a point's config; None where it is impossible."""
    try:
        return config_hash(composer.config(words).plain())
    except UserError:
        return None


def thinned(values: Sequence[str], count: int) -> list[str]:
    """Return so many of the values: the middle one of each of so many equal parts."""
    assert 0 < count <= len(values)
    return [values[int((part + 0.5) * len(values) / count)] for part in range(count)]


def count_of(stages: Sequence[Stage]) -> int:
    """Return how many jobs the stages had."""
    return sum(len(stage.jobs) for stage in stages)
