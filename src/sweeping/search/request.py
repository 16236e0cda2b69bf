"""What a command asks of a sweep: its words taken apart, and how the group `search` makes points of them."""

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
from src.sweeping.cross_validation import FOLD
from src.sweeping.job_composer import Composer, enter
from src.sweeping.ledger import LEDGER, Job, Ledger
from src.sweeping.naming import varied
from src.sweeping.search.objectives import COSTS, Objective, objectives_of
from src.sweeping.search.space import Space, refuse_too_many

if TYPE_CHECKING:
    from src.sweeping.search.optuna_trials import Trials

_OF_A_SWEEP = ("sweep.", "search.", "search=")


@dataclass(frozen=True)
class Asked:
    """A search as it was asked for.

    Args:
        search: checked settings.
        words: of its jobs; a list for each job where another sweeper than ours has made them.
        spaces: what the words vary.
    """

    search: Search
    words: tuple[tuple[str, ...], ...]
    spaces: tuple[Space, ...]

    @classmethod
    def typed(cls, master: DictConfig, words: Sequence[Sequence[str]], loader: Any) -> "Asked":
        """Read a command line.

        Args:
            master: the config of the whole sweep.
            words: of the jobs; those about the sweep itself are left out.
            loader: Hydra's config loader.

        Raises:
            UserError: if the search or its ranges make no sense.
        """
        own = [[word for word in line if not word.lstrip("+").startswith(_OF_A_SWEEP)] for line in words]
        return cls._of(check_search(master), own, loader)

    @classmethod
    def recorded(cls, ledger: Ledger, loader: Any) -> "Asked | None":
        """Read back what a ledger's last command asked for; None where that was a grid with nothing to judge by."""
        head = ledger.head.get("search")
        if head is None:
            return None
        settings = head["settings"]
        try:
            search = SEARCHES[settings["name"]].model_validate(settings)
        except (KeyError, TypeError, ValidationError) as error:
            raise UserError(f"{ledger.folder}: the search that its ledger records is damaged") from error
        file = ledger.folder / LEDGER
        if sum(len(word) for line in head["words"] for word in line) > MAX_RECORDED_IN_ALL:
            raise UserError(f"{file}: the overrides of its search have more than {MAX_RECORDED_IN_ALL:,} characters")
        for line in head["words"]:
            refuse_unknown_options(line, loader, file)
        try:
            return cls._of(search, head["words"], loader)
        except (HydraException, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{file}: the overrides of its search cannot be read") from error

    @classmethod
    def _of(cls, search: Search, words: Sequence[Sequence[str]], loader: Any) -> "Asked":
        asked = cls(search, tuple(map(tuple, words)), tuple(Space.of(line, loader) for line in words))
        if search.name != "grid":
            if len(asked.spaces) != 1:
                raise UserError(f"search={search.name} needs hydra/sweeper=search")
            if any(axis.key == FOLD for axis in asked.spaces[0].axes):
                raise UserError(f"search={search.name}: a cross-validation runs every fold of every point: search=grid")
            if not asked.spaces[0].axes:
                raise UserError(
                    f"search={search.name}: nothing is varied; give a range, such as "
                    "'optimizer.lr=tag(log,interval(1e-4,1e-1))', or +sweeps=learning_rate"
                )
        return asked

    @property
    def learns(self) -> bool:
        """Whether jobs are proposed or judged by what others have reached."""
        return self.search.name == "optuna" or self.search.pruner != "none"

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What the ledger says of it."""
        return {"settings": self.search.model_dump(), "words": self.words} if self.learns else None

    def points(self) -> list[list[str]] | None:
        """Return the words of each job; None where they are proposed only while jobs run."""
        if isinstance(self.search, OptunaSearch):
            return None
        if isinstance(self.search, RandomSearch):
            refuse_too_many(self.search.trials, f"search.trials={self.search.trials}")
            return self.spaces[0].draw(self.search.trials, self.search.seed)
        return [point for space in self.spaces for point in space.grid()]

    def keys(self, points: Sequence[Sequence[str]] | None) -> list[str]:
        """Return the keys that the sweep is named by."""
        if self.search.name != "grid" or points is None:
            return [axis.key for axis in self.spaces[0].axes]
        return list(dict.fromkeys(word.partition("=")[0] for words in varied(points) for word in words))

    def probes(self, ledger: Ledger, composer: Composer) -> tuple[Ledger, list[Job]]:
        """Check the ends of every range, and return them as jobs of a ledger that is not written.

        Raises:
            UserError: if any of them cannot run.
        """
        scratch = Ledger.create(ledger.folder, "probes", [])
        try:
            return scratch, enter(scratch, composer, self.spaces[0].probes())
        except UserError as error:
            if "valid integer" not in str(error):
                raise
            raise UserError(f"{error}\nwhole numbers are drawn from int(interval(…))") from error

    def trials(self, ledger: Ledger, composer: Composer, samples: Sequence[Config]) -> "Trials":
        """Return the source of jobs of a search that learns.

        Args:
            ledger: of the sweep, locked.
            composer: of its configs.
            samples: the config of one job of each kind.

        Raises:
            UserError: if the objectives are not those of the jobs, or if a pruner cannot go by them.
        """
        from src.sweeping.search.optuna_study import begun_study, pruner_of, sampler_of
        from src.sweeping.search.optuna_trials import Proposer, Trials

        search, objectives = self.search, self.objectives(samples)
        study = begun_study(ledger.folder, self.spaces, objectives)
        pruner = pruner_of(search, max(config.trainer.max_epochs for config in samples))
        proposer = None
        if isinstance(search, OptunaSearch):
            proposer = Proposer(ledger, composer, self.spaces[0], partial(sampler_of, search), search.trials)
        return Trials(ledger, study, objectives, pruner, proposer)

    def known(self, ledger: Ledger, samples: Sequence[Config]) -> list[Job]:
        """Return the jobs that a search that learns has by now; nothing is written.

        Raises:
            UserError: as `trials` does.
        """
        from src.sweeping.search.optuna_study import stored_study
        from src.sweeping.search.optuna_trials import jobs_of

        study = stored_study(ledger.folder, self.spaces, self.objectives(samples))
        return jobs_of(study, ledger) if study is not None else []

    def left(self, known: int) -> int:
        """Return how many jobs a search may still propose."""
        return max(self.search.trials - known, 0) if isinstance(self.search, OptunaSearch) else 0

    def objectives(self, samples: Sequence[Config]) -> tuple[Objective, ...]:
        """Return what the search goes by; see `trials`."""
        names = self.search.objectives if isinstance(self.search, OptunaSearch) else None
        objectives = objectives_of(names, samples)
        if self.search.pruner != "none" and (len(objectives) > 1 or objectives[0].name in COSTS):
            listed = ",".join(objective.name for objective in objectives)
            raise UserError(
                f"search.pruner={self.search.pruner} ends jobs by one metric that they report every epoch; "
                f"search.objectives=[{listed}] goes with search.pruner=none"
            )
        return objectives


MAX_RECORDED = 16 * 2**10
"""The most characters of a list of recorded overrides: Hydra reads some ten thousand in a second."""
MAX_RECORDED_IN_ALL = 2**18
"""The most characters of all lists of a recorded search, which has one unless another sweeper made its points."""
MAX_NESTED = 20
"""The most brackets within each other in a recorded override, of which Hydra's time is the square."""


def _is_bounded(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[\[\](){}]", text):
        depth += 1 if bracket in "[({" else -1
        if depth > MAX_NESTED:
            return False
    return True


def refuse_unknown_options(overrides: Sequence[str], loader: Any, source: object) -> None:
    """Raise an error if recorded overrides choose an option that is not in the user's own groups.

    Hydra finds an option by its path, so that ``model=../../elsewhere`` would read a file of any folder.

    Args:
        overrides: of a recorded search.
        loader: Hydra's config loader.
        source: where they are recorded, for the message.

    Raises:
        UserError: for the first that does, and for one that cannot be parsed.
    """
    parser = OverridesParser.create(config_loader=loader)
    if sum(map(len, overrides)) > MAX_RECORDED:
        raise UserError(f"{source}: the recorded overrides of its search have more than {MAX_RECORDED:,} characters")
    for text in overrides:
        refused = f"{source}: the recorded override {text[:80]!r} is refused"
        if not _is_bounded(text):
            raise UserError(f"{refused}: it is nested too deep")
        try:
            (override,) = parser.parse_overrides([text])
            key, value = override.key_or_group, override.value()
            if ".." in key or key.startswith("/"):
                raise UserError(f"{refused}: it leaves the config folder")
            if isinstance(value, RangeSweep | IntervalSweep) or not loader.repository.group_exists(key):
                continue
            chosen = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
            known = set(loader.get_group_options(key))
        except (HydraException, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{refused}: it cannot be read") from error
        names = [name for entry in chosen for name in (entry if isinstance(entry, list) else [entry])]
        if unknown := [name for name in names if name is not None and not _is_option(name, known)]:
            missing = f"{key} has no option {str(unknown[0])[:80]!r}"
            raise UserError(f"{refused}: {missing}. If it is in a config folder of yours, add --config-dir FOLDER")


def _is_option(value: object, known: set[str]) -> bool:
    """Return whether a value of a group is one of its options, or a section of keys, which is not a path."""
    return isinstance(value, dict) or str(value).strip("'\"") in known


def samples_of(ledger: Ledger, jobs: Sequence[Job]) -> list[Config]:
    """Return the config of one job of each kind: those that are measured, or last, differently."""
    kinds: dict[tuple[Any, ...], Job] = {}
    for job in jobs:
        config = ledger.config(job)
        kinds.setdefault((config["datamodule"]["name"], config["monitor"], config["trainer"]["max_epochs"]), job)
    return [check(ledger.config(job)) for job in kinds.values()]
