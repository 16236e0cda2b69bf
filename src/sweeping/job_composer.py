"""Compose and check the config of each point of a sweep, and add the points to the ledger."""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from src.config.groups import CONF, search_roots
from src.config.schema.run import Config
from src.config.suggest import explain, is_config_error
from src.config.trust import check_recorded_config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import UserError
from src.sweeping.config_template import ConfigTemplate, NotPlain, is_plain
from src.sweeping.fold_check import FoldCheck
from src.sweeping.ledger import Job, Ledger
from src.sweeping.naming import varied

SHOWN_PROBLEMS = 10
"""Number of problems after which no more points are checked."""
PROGRESS_SECONDS = 5.0
"""Seconds between two progress lines."""
MAX_TEMPLATES, MAX_PARSED = 256, 10_000
"""Sizes of the caches of composed combinations of options, and of parsed overrides."""


class JobComposer:
    """Composes the points of a sweep.

    Hydra takes tens of milliseconds to compose a config. The points of a sweep mostly differ in single keys, so each
    combination of options is composed once, and the keys are set in copies of it, with the same result. The config of the
    whole sweep, which Hydra has composed already, may be the first.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        name: name of the sweep.
    """

    def __init__(self, loader: Any, master: DictConfig, name: str) -> None:
        self._loader = loader
        self._master = master
        self._name = name
        self._parsed: dict[str, tuple[Override, bool]] = {}
        self._templates: dict[tuple[bool, tuple[str, ...]], ConfigTemplate] = {}
        overrides = [override for override in master.hydra.overrides.task if not override.startswith("sweep.")]
        self._shared = [override for override in overrides if not self._parse(override)[0].is_sweep_override()]
        self._shared_options = self._split(self._shared)[0]

    def config(self, overrides: Sequence[str]) -> Config:
        """Return the checked config of a point.

        Raises:
            UserError: listing every problem of the config.
        """
        try:
            return self._check(self.resolved(overrides))
        except Exception as error:
            if not isinstance(error, (NotPlain, UserError)) and not is_config_error(error):
                raise
        try:  # errors come from the config that Hydra composes from all overrides
            return self._check(self._compose(overrides))
        except Exception as error:
            if not is_config_error(error):
                raise
            raise explain(error, [*_config_folders(), *overrides]) from error

    def _check(self, config: Any) -> Config:
        """Return the checked config of a point; recorded overrides must satisfy the rules of a recorded config."""
        if self._master.sweep.resume:  # before `check`, which imports the classes
            plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
            check_recorded_config(plain, Path(self._master.sweep.resume))
        return check(config)

    def resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the config of a point, without Hydra if its options were composed before.

        Raises:
            NotPlain: if only Hydra can compose it.
        """
        options, changes = self._split(overrides)
        is_master = options == self._shared_options and set(overrides).issuperset(self._shared)
        return self._template(is_master, options).resolved(changes)

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
        """Split overrides into those that Hydra must compose, and the keys that can be set in its result, with their values."""
        options: list[str] = []
        changes: list[tuple[str, Any]] = []
        composed_later: list[str] = []  # keys that Hydra sets after this one
        for override in reversed(overrides):
            parsed, is_choice = self._parse(override)
            key = parsed.key_or_group
            is_sweep = key.partition(".")[0] == "sweep"  # this section is replaced afterwards
            if (
                not is_choice
                and not is_sweep
                and is_plain(parsed)
                and not any(_overlap(key, other) for other in composed_later)
            ):
                changes.append((key, parsed.value()))
                continue
            options.append(override)
            if not is_choice:
                composed_later.append(key)
        return tuple(reversed(options)), changes[::-1]

    def _parse(self, override: str) -> tuple[Override, bool]:
        """Return a parsed override, and whether it chooses an option of a group, which Hydra applies before all keys."""
        if override not in self._parsed:
            if len(self._parsed) == MAX_PARSED:
                self._parsed.clear()
            parsed = OverridesParser.create().parse_override(override)
            is_group = self._loader.repository.group_exists(parsed.key_or_group)
            self._parsed[override] = parsed, is_group and not isinstance(parsed.value(), dict)
        return self._parsed[override]

    def _template(self, is_master: bool, options: tuple[str, ...]) -> ConfigTemplate:
        if (is_master, options) not in self._templates:
            if len(self._templates) == MAX_TEMPLATES:
                self._templates.clear()
            raw: Any = OmegaConf.to_container(self._master if is_master else self._compose(options), resolve=False)
            self._templates[is_master, options] = ConfigTemplate(raw | {"sweep": {"name": self._name}})
        return self._templates[is_master, options]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        cfg: DictConfig = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(cfg):
            del cfg["hydra"]
            cfg.sweep = {"name": self._name}
        return cfg


def _overlap(key: str, other: str) -> bool:
    """Return whether one key equals the other or is in its section."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def add_to_ledger(ledger: Ledger, composer: JobComposer, points: Iterable[Sequence[str]]) -> list[Job]:
    """Add the points of a grid to the ledger, all or none, and return their jobs.

    A point that is in the ledger already keeps its frozen config.

    Raises:
        UserError: if any point is impossible, if there are more folds than examples, if two are the same experiment, or if
            two would write their checkpoints to one folder.
    """
    check_folds = FoldCheck()
    all_points = [tuple(point) for point in points]
    jobs_by_error: dict[str, list[str]] = {}
    repeated: list[str] = []
    jobs: list[Job] = []
    first: dict[str, tuple[str, ...]] = {}
    checkpoint_folders: dict[str, tuple[str, ...]] = {}
    checked, printed_at = 0, time.monotonic()
    for point, label in zip(all_points, varied(all_points), strict=True):
        checked += 1
        try:
            if (job := ledger.find(point)) is None:
                config = composer.config(point)
                check_folds(config)
                plain = config.plain()
                for name, entry in plain["callbacks"].items():
                    dirpath = entry.get("dirpath") if isinstance(entry, dict) else None
                    if dirpath and (sharer := checkpoint_folders.setdefault(dirpath, point)) != point:
                        repeated.append(
                            f"job {' '.join(point)}: callbacks.{name}.dirpath={dirpath} is also the folder of job "
                            f"{' '.join(sharer)}. Leave the key out, so that each job writes to its own run folder"
                        )
                job = ledger.add(point, label, plain)
        except UserError as error:
            jobs_by_error.setdefault(str(error), []).append(" ".join(label) or " ".join(point))
        else:
            if (other := first.get(job.digest)) is not None:
                problem = "given twice" if other == point else f"the same experiment as job {' '.join(other)}"
                repeated.append(f"job {' '.join(point)}: {problem}")
            first[job.digest] = point
            jobs.append(job)
        count = len(repeated) + sum(map(len, jobs_by_error.values()))
        if count == SHOWN_PROBLEMS:
            break
        if time.monotonic() - printed_at > PROGRESS_SECONDS:
            printed_at = time.monotonic()
            echo(f"checked {checked:,} of {len(all_points):,} jobs", flush=True)
    if jobs_by_error or repeated:
        scope = f"{checked}" if checked == len(all_points) else f"the first {checked:,} of {len(all_points):,}"
        lines = [f"{_describe(names)}: {error}".replace("\n", "\n  ") for error, names in jobs_by_error.items()]
        raise UserError("\n".join([f"{count} of {scope} jobs cannot run, so none was started:", *lines, *repeated]))
    return jobs


def _describe(jobs: Sequence[str]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs, such as {jobs[0]}"


def _config_folders() -> list[str]:
    """Return the arguments of this command line that name a user's own config folders."""
    return [f"--config-dir={root}" for root in search_roots(sys.argv[1:]) if root != CONF]
