"""From the words of each point to its checked config, with what points share composed once."""

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
from src.config.suggest import explain, refused
from src.config.trust import literal_config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import UserError
from src.sweeping.config_template import NotPlain, Template, is_plain
from src.sweeping.fold_check import FoldCheck
from src.sweeping.ledger import Job, Ledger
from src.sweeping.naming import varied

SHOWN_PROBLEMS = 10
"""After so many no further points are looked at."""
SPEAKS_EVERY = 5.0
"""Seconds between two lines that say how many points are checked."""
REMEMBERED, REMEMBERED_WORDS = 256, 10_000
"""Combinations of options that are kept composed, and words that are kept parsed."""


class Composer:
    """Composes the points of a sweep.

    Hydra takes tens of milliseconds to compose a config. The points of a sweep mostly differ in single keys, so each
    combination of options is composed once, and the keys are set in copies of it, to the same effect. The first may be
    that of the whole sweep, which Hydra has composed already.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        name: of the sweep.
    """

    def __init__(self, loader: Any, master: DictConfig, name: str) -> None:
        self._loader = loader
        self._master = master
        self._name = name
        self._words: dict[str, tuple[Override, bool]] = {}
        self._templates: dict[tuple[bool, tuple[str, ...]], Template] = {}
        words = [word for word in master.hydra.overrides.task if not word.startswith("sweep.")]
        self._shared = [word for word in words if not self._parsed(word)[0].is_sweep_override()]
        self._shared_options = self._taken_apart(self._shared)[0]

    def config(self, words: Sequence[str]) -> Config:
        """Return the checked config of a point.

        Raises:
            UserError: with everything that is wrong with it.
        """
        try:
            return self._checked(self.resolved(words))
        except Exception as error:
            if not isinstance(error, (NotPlain, UserError)) and not refused(error):
                raise
        try:  # what is wrong, if anything, is told by the config that Hydra composes of all words
            return self._checked(self._composed(words))
        except Exception as error:
            if not refused(error):
                raise
            raise explain(error, [*_config_folders(), *words]) from error

    def _checked(self, config: Any) -> Config:
        """Return the checked config of a point; that of recorded overrides may decide no more than a recorded config."""
        if self._master.sweep.resume:  # before `check`, which imports the classes
            plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
            literal_config(plain, Path(self._master.sweep.resume))
        return check(config)

    def resolved(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the config of a point, without Hydra where its options were composed before.

        Raises:
            NotPlain: if only Hydra can compose it.
        """
        options, changes = self._taken_apart(words)
        whole = options == self._shared_options and set(words).issuperset(self._shared)
        return self._template(whole, options).resolved(changes)

    def _taken_apart(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
        """Return the words that only Hydra can answer, and the keys that are set beside, with their values."""
        options: list[str] = []
        changes: list[tuple[str, Any]] = []
        later: list[str] = []  # keys that Hydra changes after those before them
        for word in reversed(words):
            override, is_choice = self._parsed(word)
            key = override.key_or_group
            own = key.partition(".")[0] == "sweep"  # which is put into its place afterwards
            if not is_choice and not own and is_plain(override) and not any(_overlap(key, other) for other in later):
                changes.append((key, override.value()))
                continue
            options.append(word)
            if not is_choice:
                later.append(key)
        return tuple(reversed(options)), changes[::-1]

    def _parsed(self, word: str) -> tuple[Override, bool]:
        """Return a word as Hydra reads it, and whether it chooses an option, which comes before all keys."""
        if word not in self._words:
            if len(self._words) == REMEMBERED_WORDS:
                self._words.clear()
            override = OverridesParser.create().parse_override(word)
            is_group = self._loader.repository.group_exists(override.key_or_group)
            self._words[word] = override, is_group and not isinstance(override.value(), dict)
        return self._words[word]

    def _template(self, whole: bool, options: tuple[str, ...]) -> Template:
        if (whole, options) not in self._templates:
            if len(self._templates) == REMEMBERED:
                self._templates.clear()
            raw: Any = OmegaConf.to_container(self._master if whole else self._composed(options), resolve=False)
            self._templates[whole, options] = Template(raw | {"sweep": {"name": self._name}})
        return self._templates[whole, options]

    def _composed(self, words: Sequence[str]) -> DictConfig:
        cfg: DictConfig = self._loader.load_sweep_config(self._master, list(words))
        with open_dict(cfg):
            del cfg["hydra"]
            cfg.sweep = {"name": self._name}
        return cfg


def _overlap(key: str, other: str) -> bool:
    """Whether one key is the other, or within its section."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def enter(ledger: Ledger, composer: Composer, points: Iterable[Sequence[str]]) -> list[Job]:
    """Enter the points of a grid into the ledger, all or none, and return their jobs.

    A point whose words are in the ledger keeps the config that it was frozen with.

    Raises:
        UserError: if any point is impossible, if there are more folds than examples, or if two are the same experiment.
    """
    check_folds = FoldCheck()
    words = [tuple(point) for point in points]
    refused: dict[str, list[str]] = {}  # what is wrong, and the jobs of which it is
    repeated: list[str] = []
    jobs: list[Job] = []
    first: dict[str, tuple[str, ...]] = {}
    checked, spoken = 0, time.monotonic()
    for point, label in zip(words, varied(words), strict=True):
        checked += 1
        try:
            if (job := ledger.find(point)) is None:
                config = composer.config(point)
                check_folds(config)
                job = ledger.add(point, label, config.plain())
        except UserError as error:
            refused.setdefault(str(error), []).append(" ".join(label) or " ".join(point))
        else:
            if (other := first.get(job.digest)) is not None:
                what = "given twice" if other == point else f"the same experiment as job {' '.join(other)}"
                repeated.append(f"job {' '.join(point)}: {what}")
            first[job.digest] = point
            jobs.append(job)
        count = len(repeated) + sum(map(len, refused.values()))
        if count == SHOWN_PROBLEMS:
            break
        if time.monotonic() - spoken > SPEAKS_EVERY:
            spoken = time.monotonic()
            echo(f"checked {checked:,} of {len(words):,} jobs", flush=True)
    if refused or repeated:
        of = f"{checked}" if checked == len(words) else f"the first {checked:,} of {len(words):,}"
        lines = [f"{_named(names)}: {error}".replace("\n", "\n  ") for error, names in refused.items()]
        raise UserError("\n".join([f"{count} of {of} jobs cannot run, so none was started:", *lines, *repeated]))
    return jobs


def _named(jobs: Sequence[str]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs, such as {jobs[0]}"


def _config_folders() -> list[str]:
    """Return the words of this command line that name a user's own config folders."""
    return [f"--config-dir={root}" for root in search_roots(sys.argv[1:]) if root != CONF]
