"""The Optuna study of a search: in a file of the sweep's folder, which Optuna's own tools read too."""

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import Study

from src.config.schema import OptunaSearch, Search
from src.core.files import append_below, open_below
from src.core.records import RecordError, lines_of, parse_json
from src.errors import UserError
from src.sweeping.objectives import Objective
from src.sweeping.space import Space

FILE = "study.journal"

NO_STUDY = "Record does not exist."
"""What Optuna's KeyError says where a journal has no study of a name."""

optuna.logging.set_verbosity(logging.WARNING)


class _Locked(BaseJournalFileLock):
    """No lock: the sweep's folder is locked as a whole, and a lock of its own would outlive a killed process."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def begun_study(folder: Path, spaces: Sequence[Space], objectives: Sequence[Objective]) -> Study:
    """Return the study of a search, begun where there is none.

    Args:
        folder: of the sweep, locked; one that was given several searches has several studies.
        spaces: what is searched.
        objectives: one or several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(folder)
    if (known := stored_study(folder, spaces, objectives)) is not None:
        return known
    return optuna.create_study(
        storage=_storage(folder),
        study_name=_name(spaces, objectives),
        directions=["minimize" if objective.mode == "min" else "maximize" for objective in objectives],
        sampler=RandomSampler(),
    )


def stored_study(folder: Path, spaces: Sequence[Space], objectives: Sequence[Objective]) -> Study | None:
    """Return the study of a search as it is on disk; None where there is none. See `begun_study`."""
    if not _is_journal(folder):
        return None
    name = _name(spaces, objectives)
    try:
        study = optuna.load_study(storage=_storage(folder), study_name=name, sampler=RandomSampler())
        for trial in study.get_trials(deepcopy=False):
            if not isinstance(trial.user_attrs.get("job", ""), str):
                raise TypeError("the job of a trial is its folder")
    except KeyError as error:
        if error.args == (NO_STUDY,):
            return None
        raise UserError(f"{folder / FILE}: this journal of a search is damaged ({error})") from error
    except Exception as error:  # optuna checks nothing of what it reads
        raise UserError(f"{folder / FILE}: this journal of a search is damaged ({error})") from error
    return study


def _is_journal(folder: Path) -> bool:
    """Return whether a sweep has a journal, after checking that Optuna can open it by its path.

    Raises:
        UserError: if it is a link or no regular file, or if a line is no JSON object.
    """
    try:
        with open_below(folder, FILE) as file:
            for number, line in enumerate(lines_of(file, folder / FILE), 1):
                name = f"{folder / FILE}, line {number}"
                if line.endswith(b"\n") and not isinstance(parse_json(line, name), dict):
                    raise RecordError(f"{name}: this is no object")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{folder / FILE}: cannot be read: {error.strerror}") from error
    return True


def _storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / FILE), lock_obj=_Locked()))


def _name(spaces: Sequence[Space], objectives: Sequence[Objective]) -> str:
    """Return a name that only the same search has; how many points it takes does not count."""
    varied = [[space.fixed, [[axis.key, str(axis)] for axis in space.axes]] for space in spaces]
    facts = [varied, [vars(objective) for objective in objectives]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _cut_torn_line(folder: Path) -> None:
    """Cut off a last line that a crash tore, or the next would be lost with it."""
    if not _is_journal(folder):
        return
    with append_below(folder, FILE) as file, open_below(folder, FILE) as reader:
        whole = sum(len(line) for line in lines_of(reader, folder / FILE) if line.endswith(b"\n"))
        if whole < reader.tell():
            file.truncate(whole)


def sampler_of(search: OptunaSearch, number: int) -> BaseSampler:
    """Return what proposes a trial: made anew for each, so that a search which was killed goes on as it would have.

    Args:
        search: checked settings.
        number: of the trial.
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
        return QMCSampler(seed=search.seed, warn_independent_sampling=False)  # one sequence, which the study counts


def pruner_of(search: Search, epochs: int) -> BasePruner:
    """Return what ends jobs early; steps are epochs that have ended.

    Args:
        search: checked settings.
        epochs: of a whole job.
    """
    first, factor = search.warmup_epochs, search.reduction_factor
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=search.startup_jobs, n_warmup_steps=first)
    if search.pruner == "successive_halving":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=max(epochs, first), reduction_factor=factor)
    return NopPruner()
