"""The Optuna study of a search, in a journal file in the sweep's folder that Optuna's own tools can read."""

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from src.config.schema.search import OptunaSearch, Search
from src.core.errors import UserError, first_line
from src.core.files import MAX_RECORD_BYTES, append_below, open_below
from src.core.records import RecordError, parse_json, read_lines
from src.sweeping.search.objectives import Objective
from src.sweeping.search.space import Space

FILE = "study.journal"

NO_STUDY = "Record does not exist."
"""Text of Optuna's KeyError if a journal has no study of a name."""

optuna.logging.set_verbosity(logging.WARNING)


class _NoLock:
    """No lock: the folder of the sweep is locked as a whole, and a lock file would remain after a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


MAX_JOURNAL_BYTES = 512 * 2**20
"""Maximum size of a journal."""
MAX_JOURNAL_LINES = 2_000_000
"""Maximum number of lines in a journal; each epoch of a trial is one."""
MAX_STUDIES = 1000
"""Maximum number of searches of one sweep."""
MAX_COPIES = 10**9
"""Maximum number of values that Optuna copies or compares to read a journal: for each change of a trial or study, all earlier
ones, and for each parameter, all trials. A thousand trials of a thousand epochs need half of it.
"""
CREATE_STUDY, CREATE_TRIAL, SET_PARAMETER = 0, 4, 5
"""Optuna's codes of entries (``JournalOperation``)."""


@contextmanager
def study_errors(folder: Path) -> Iterator[None]:
    """Turn any exception of Optuna about a damaged journal into a `UserError` that names the file.

    Args:
        folder: folder of the sweep.

    Raises:
        UserError: instead of any other exception. The file is a list of changes, which Optuna applies without checking them.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = first_line(error)[:200]
        raise UserError(f"{folder / FILE}: this study is damaged ({type(error).__name__}: {reason})") from error


def open_or_create_study(folder: Path, spaces: Sequence[Space], objectives: Sequence[Objective]) -> Study:
    """Return the study of a search; create it if it does not exist.

    Args:
        folder: folder of the sweep, locked; a sweep with several searches has several studies.
        spaces: the search spaces.
        objectives: one or several.

    Raises:
        UserError: if the journal is damaged or not a regular file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(folder / FILE):
        with study_errors(folder):
            _remove_incomplete_line(folder)
    if (study := stored_study(folder, spaces, objectives)) is not None:
        return study
    with study_errors(folder):
        return optuna.create_study(
            storage=_storage(folder),
            study_name=_name(spaces, objectives),
            directions=["minimize" if objective.mode == "min" else "maximize" for objective in objectives],
            sampler=RandomSampler(),
        )


def stored_study(folder: Path, spaces: Sequence[Space], objectives: Sequence[Objective]) -> Study | None:
    """Return the study of a search if it exists on disk, otherwise None. See `open_or_create_study`."""
    if not os.path.lexists(folder / FILE):
        return None
    name = _name(spaces, objectives)
    with study_errors(folder):
        _check_lines(folder)
        storage = _storage(folder)
        if all(study.study_name != name for study in storage.get_all_studies()):
            return None
        study = optuna.load_study(storage=storage, study_name=name, sampler=RandomSampler())
        if len(study.directions) != len(objectives):
            raise ValueError(f"{len(study.directions)} directions for {len(objectives)} objectives")
        for trial in study.get_trials(deepcopy=False):
            _check_trial(trial, len(objectives))
        return study


def _check_trial(trial: FrozenTrial, objectives: int) -> None:
    """Raise `ValueError` if a trial has values that no search writes: of other types, or not one for each objective."""
    job = trial.user_attrs.get("job", "")
    numbers = [*(trial.values or []), *trial.intermediate_values.values()]
    if (
        not isinstance(job, str)
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
        or any(not isinstance(step, int) or step < 0 for step in trial.intermediate_values)
        or any(not isinstance(value, str | int | float) for value in trial.params.values())
        or set(trial.params) != set(trial.distributions)
        or (trial.state == TrialState.COMPLETE and len(trial.values or []) != objectives)
    ):
        raise ValueError(f"trial {trial.number} holds unexpected values")


def _check_lines(folder: Path) -> None:
    """Raise `UserError` unless the journal is a regular file whose lines are JSON objects of a bounded size."""
    file = folder / FILE
    with open_below(folder, FILE) as opened:
        if os.fstat(opened.fileno()).st_size > MAX_JOURNAL_BYTES:
            raise UserError(f"{file}: this study has more than {MAX_JOURNAL_BYTES / 2**20:,.0f} MiB")
        studies = trials = copies = largest = 0
        changes = Counter[str]()
        for number, line in enumerate(read_lines(opened, file, max_lines=MAX_JOURNAL_LINES), 1):
            if not line.endswith(b"\n"):
                continue
            entry = parse_json(line, f"{file}, line {number}")
            if not isinstance(entry, dict):
                raise RecordError(f"{file}, line {number}: this is not an entry of a study")
            code, changed = entry.get("op_code"), f"{entry.get('trial_id')} {entry.get('study_id')}"
            studies += code == CREATE_STUDY
            if code == CREATE_TRIAL:
                trials += 1
                largest = max(largest, sum(len(value) for value in entry.values() if isinstance(value, dict)))
            else:
                copies += changes[changed] + largest + (trials if code == SET_PARAMETER else 0)
                changes[changed] += 1
            if copies > MAX_COPIES:
                raise RecordError(f"{file}, line {number}: a trial has too many changes, or the study too many trials")
            if studies > MAX_STUDIES:  # Optuna compares each name with all previous ones
                raise RecordError(f"{file}, line {number}: more than {MAX_STUDIES} studies")


def _storage(folder: Path) -> JournalStorage:
    """Return the storage of the journal. Optuna opens it by path, so it must not be a link.

    A storage in a file has no snapshots, which are pickles.
    """
    append_below(folder, FILE).close()
    return JournalStorage(JournalFileBackend(str(folder / FILE), lock_obj=_NoLock()))  # type: ignore[arg-type]  # only these two methods are needed


def _name(spaces: Sequence[Space], objectives: Sequence[Objective]) -> str:
    """Return a name that identifies the search; it does not depend on the number of points."""
    varied = [[space.fixed, [[axis.key, str(axis)] for axis in space.axes]] for space in spaces]
    identity = [varied, [vars(objective) for objective in objectives]]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def _remove_incomplete_line(folder: Path) -> None:
    """Remove an incomplete last line, as a crash leaves it; otherwise the next line would be lost, too."""
    with open_below(folder, FILE) as file:
        size = os.fstat(file.fileno()).st_size
        start = max(size - MAX_RECORD_BYTES, 0)
        file.seek(start)
        content = file.read(size - start)
    end = start + content.rfind(b"\n") + 1
    if end < size:
        with append_below(folder, FILE) as handle:
            handle.truncate(end)


def sampler_of(search: OptunaSearch, number: int) -> BaseSampler:
    """Return the sampler of one trial. Each trial has a new one, so a search that was killed continues as it would have.

    Args:
        search: checked settings.
        number: number of the trial.
    """
    seed = (search.seed * 1_000_003 + number) % 2**32
    if search.sampler == "tpe":
        return TPESampler(seed=seed)
    if search.sampler == "gp":
        return GPSampler(seed=seed)
    if search.sampler == "nsgaii":
        return NSGAIISampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(
            seed=search.seed, warn_independent_sampling=False
        )  # one sequence, at a position given by the number of trials


def pruner_of(search: Search, epochs: int) -> BasePruner:
    """Return the pruner; its steps are finished epochs.

    Args:
        search: checked settings.
        epochs: epochs of a complete job.
    """
    first, factor = search.warmup_epochs, search.reduction_factor
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=search.startup_jobs, n_warmup_steps=first)
    if search.pruner == "successive_halving":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=max(epochs, first), reduction_factor=factor)
    return NopPruner()
