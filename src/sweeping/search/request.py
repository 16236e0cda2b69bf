"""The search that a command requests: its overrides, and the points that the config group `search` makes of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from pydantic import ValidationError

from src.config.schema.run import Config
from src.config.schema.search import SEARCHES, OptunaSearch, RandomSearch, Search
from src.config.validate import check, check_search
from src.core.errors import UserError
from src.sweeping.job_composer import JobComposer, add_to_ledger
from src.sweeping.ledger import LEDGER, Job, Ledger
from src.sweeping.naming import varied
from src.sweeping.search.cross_validation import FOLD
from src.sweeping.search.objectives import COSTS, Objective, objectives_of
from src.sweeping.search.space import Space, check_count

if TYPE_CHECKING:
    from src.sweeping.search.optuna_trials import Trials

_SWEEP_PREFIXES = ("sweep.", "search.", "search=")


@dataclass(frozen=True)
class SearchRequest:
    """A requested search.

    Args:
        search: checked settings.
        overrides: overrides of its jobs; one list per job if another sweeper than ours expanded them.
        spaces: what each list varies.
    """

    search: Search
    overrides: tuple[tuple[str, ...], ...]
    spaces: tuple[Space, ...]

    @classmethod
    def from_command(cls, master: DictConfig, overrides: Sequence[Sequence[str]], loader: Any) -> "SearchRequest":
        """Create the request of a command line.

        Args:
            master: the config of the whole sweep.
            overrides: overrides of the jobs; those of the sweep itself are removed.
            loader: Hydra's config loader.

        Raises:
            UserError: if the search or its ranges are invalid.
        """
        of_jobs = [
            [override for override in line if not override.lstrip("+").startswith(_SWEEP_PREFIXES)]
            for line in overrides
        ]
        return cls._create(check_search(master), of_jobs, loader)

    @classmethod
    def from_ledger(cls, ledger: Ledger, loader: Any) -> "SearchRequest | None":
        """Return the request of a ledger's last command; None if that was a grid without a pruner."""
        head = ledger.head.get("search")
        if head is None:
            return None
        settings = head["settings"]
        try:
            search = SEARCHES[settings["name"]].model_validate(settings)
        except (KeyError, TypeError, ValidationError) as error:
            raise UserError(f"{ledger.folder}: the search that its ledger records is damaged") from error
        file = ledger.folder / LEDGER
        if sum(len(override) for line in head["overrides"] for override in line) > MAX_RECORDED_TOTAL:
            raise UserError(f"{file}: the overrides of its search have more than {MAX_RECORDED_TOTAL:,} characters")
        for line in head["overrides"]:
            reject_unknown_options(line, loader, file)
        try:
            return cls._create(search, head["overrides"], loader)
        except (HydraException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise UserError(f"{file}: the overrides of its search cannot be read") from error

    @classmethod
    def _create(cls, search: Search, overrides: Sequence[Sequence[str]], loader: Any) -> "SearchRequest":
        request = cls(search, tuple(map(tuple, overrides)), tuple(Space.of(line, loader) for line in overrides))
        if search.name != "grid":
            if len(request.spaces) != 1:
                raise UserError(f"search={search.name} needs hydra/sweeper=search")
            if any(axis.key == FOLD for axis in request.spaces[0].axes):
                raise UserError(
                    f"search={search.name}: cross-validation runs every fold of every point; use search=grid"
                )
            if not request.spaces[0].axes:
                raise UserError(
                    f"search={search.name}: nothing is varied; add a range, such as "
                    "'optimizer.lr=tag(log,interval(1e-4,1e-1))', or +sweeps=learning_rate"
                )
        return request

    @property
    def learns(self) -> bool:
        """Whether jobs are proposed or pruned depending on the results of others."""
        return self.search.name == "optuna" or self.search.pruner != "none"

    @property
    def record(self) -> Mapping[str, Any] | None:
        """The entry of this search in the ledger."""
        return {"settings": self.search.model_dump(), "overrides": self.overrides} if self.learns else None

    def points(self) -> list[list[str]] | None:
        """Return the overrides of each job; None if they are proposed while jobs run."""
        if isinstance(self.search, OptunaSearch):
            return None
        if isinstance(self.search, RandomSearch):
            check_count(self.search.trials, f"search.trials={self.search.trials}")
            return self.spaces[0].draw(self.search.trials, self.search.seed)
        return [point for space in self.spaces for point in space.grid()]

    def keys(self, points: Sequence[Sequence[str]] | None) -> list[str]:
        """Return the keys from which the sweep is named."""
        if self.search.name != "grid" or points is None:
            return [axis.key for axis in self.spaces[0].axes]
        return list(dict.fromkeys(override.partition("=")[0] for overrides in varied(points) for override in overrides))

    def probes(self, ledger: Ledger, composer: JobComposer) -> tuple[Ledger, list[Job]]:
        """Check the ends of every range, and return them as jobs of a scratch ledger that is not written.

        Raises:
            UserError: if any of them cannot run.
        """
        scratch = Ledger.create(ledger.folder, "probes", [])
        try:
            return scratch, add_to_ledger(scratch, composer, self.spaces[0].probes())
        except UserError as error:
            if "valid integer" not in str(error):
                raise
            raise UserError(f"{error}\nuse int(interval(…)) for whole numbers") from error

    def trials(self, ledger: Ledger, composer: JobComposer, samples: Sequence[Config]) -> "Trials":
        """Return the job source of a search that learns.

        Args:
            ledger: ledger of the sweep, locked.
            composer: composes its configs.
            samples: the config of one job of each kind.

        Raises:
            UserError: if the jobs do not log the objectives, or if the pruner cannot use them.
        """
        from src.sweeping.search.optuna_study import open_or_create_study, pruner_of, sampler_of
        from src.sweeping.search.optuna_trials import Proposer, Trials

        search, objectives = self.search, self.objectives(samples)
        study = open_or_create_study(ledger.folder, self.spaces, objectives)
        pruner = pruner_of(search, max(config.trainer.max_epochs for config in samples))
        proposer = None
        if isinstance(search, OptunaSearch):
            proposer = Proposer(ledger, composer, self.spaces[0], partial(sampler_of, search), search.trials)
        return Trials(ledger, study, objectives, pruner, proposer)

    def stored_jobs(self, ledger: Ledger, samples: Sequence[Config]) -> list[Job]:
        """Return the jobs that a search that learns has so far; nothing is written.

        Raises:
            UserError: as `trials` does.
        """
        from src.sweeping.search.optuna_study import stored_study
        from src.sweeping.search.optuna_trials import jobs_of

        study = stored_study(ledger.folder, self.spaces, self.objectives(samples))
        return jobs_of(study, ledger) if study is not None else []

    def remaining(self, proposed: int) -> int:
        """Return the number of jobs that the search may still propose."""
        return max(self.search.trials - proposed, 0) if isinstance(self.search, OptunaSearch) else 0

    def objectives(self, samples: Sequence[Config]) -> tuple[Objective, ...]:
        """Return the objectives of the search; see `trials`."""
        names = self.search.objectives if isinstance(self.search, OptunaSearch) else None
        objectives = objectives_of(names, samples)
        if self.search.pruner != "none" and (len(objectives) > 1 or objectives[0].name in COSTS):
            listed = ",".join(objective.name for objective in objectives)
            raise UserError(
                f"search.pruner={self.search.pruner} prunes by one metric that jobs report every epoch; "
                f"search.objectives=[{listed}] needs search.pruner=none"
            )
        return objectives


MAX_RECORDED = 16 * 2**10
"""Maximum length of a list of recorded overrides: Hydra parses about ten thousand characters per second."""
MAX_RECORDED_TOTAL = 2**16
"""Maximum total length of all lists of a recorded search; there is one unless another sweeper expanded the points."""
MAX_NESTING = 20
"""Maximum nesting of brackets in a recorded override; Hydra's parsing time is quadratic in it."""


def _is_bounded(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[\[\](){}]", text):
        depth += 1 if bracket in "[({" else -1
        if depth > MAX_NESTING:
            return False
    return True


def reject_unknown_options(overrides: Sequence[str], loader: Any, source: object) -> None:
    """Raise an error if recorded overrides choose an option that does not exist in the config groups.

    Hydra finds an option by its path, so ``model=../../elsewhere`` would read a file outside of the config folders.

    Args:
        overrides: overrides of a recorded search.
        loader: Hydra's config loader.
        source: where they are recorded, for the message.

    Raises:
        UserError: for the first such override, or one that cannot be parsed.
    """
    parser = OverridesParser.create(config_loader=loader)
    if sum(map(len, overrides)) > MAX_RECORDED:
        raise UserError(f"{source}: the recorded overrides of its search have more than {MAX_RECORDED:,} characters")
    for text in overrides:
        prefix = f"{source}: the recorded override {text[:80]!r} is refused"
        if not _is_bounded(text):
            raise UserError(f"{prefix}: its brackets are nested too deeply")
        try:
            (override,) = parser.parse_overrides([text])
            key, value = override.key_or_group, override.value()
            if ".." in key or key.startswith("/"):
                raise UserError(f"{prefix}: it leaves the config folder")
            if isinstance(value, RangeSweep | IntervalSweep) or not loader.repository.group_exists(key):
                continue
            chosen = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
            options = set(loader.get_group_options(key))
        except (HydraException, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
            raise UserError(f"{prefix}: it cannot be read") from error
        names = [name for entry in chosen for name in (entry if isinstance(entry, list) else [entry])]
        if unknown := [name for name in names if name is not None and not _is_option(name, options)]:
            missing = f"{key} has no option {str(unknown[0])[:80]!r}"
            raise UserError(f"{prefix}: {missing}. If it is in a config folder of your own, add --config-dir FOLDER")


def _is_option(value: object, options: set[str]) -> bool:
    """Return whether a value of a group is one of its options or a dict of keys, which is not a path."""
    return isinstance(value, dict) or str(value).strip("'\"") in options


def samples_of(ledger: Ledger, jobs: Sequence[Job]) -> list[Config]:
    """Return the config of one job for each combination of datamodule, monitor and number of epochs."""
    kinds: dict[tuple[Any, ...], Job] = {}
    for job in jobs:
        config = ledger.config(job)
        kinds.setdefault((config["datamodule"]["name"], config["monitor"], config["trainer"]["max_epochs"]), job)
    return [check(ledger.config(job)) for job in kinds.values()]
