"""From the words of each point to its checked config, with what points share composed once."""

import copy
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from src.config.check import check
from src.config.compose import explain
from src.config.options import CONF, search_roots
from src.config.schema import Config
from src.errors import UserError
from src.sweeping.ledger import Job, Ledger
from src.sweeping.naming import varied

SHOWN_PROBLEMS = 10


class Composer:
    """Composes the points of a sweep.

    Hydra takes tens of milliseconds to compose a config. The points of a sweep mostly differ in single keys, so each
    combination of options is composed once, and the keys are set in copies of it, as Hydra would.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        name: of the sweep.
    """

    def __init__(self, loader: Any, master: DictConfig, name: str) -> None:
        self._loader = loader
        self._master = master
        self._name = name
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def config(self, words: Sequence[str]) -> Config:
        """Return the checked config of a point.

        Raises:
            UserError: with everything that is wrong with it.
            HydraException, OmegaConfBaseException: if a word names what does not exist.
        """
        parsed = [(word, _parse(word)) for word in words]
        cfg = copy.deepcopy(self._options(tuple(word for word, override in parsed if not self._is_value(override))))
        for _, override in parsed:
            if self._is_value(override):
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        return check(cfg)

    def _options(self, words: tuple[str, ...]) -> DictConfig:
        if words not in self._composed:
            cfg = self._loader.load_sweep_config(self._master, list(words))
            with open_dict(cfg):
                del cfg["hydra"]
                cfg.sweep = {"name": self._name}
            self._composed[words] = cfg
        return self._composed[words]

    def _is_value(self, override: Override) -> bool:
        """Whether a word sets a key, and does not choose an option."""
        key = override.key_or_group
        if override.type != OverrideType.CHANGE or override.package is not None or "/" in key:
            return False
        return "." in key or (key in self._master and not isinstance(self._master._get_node(key), DictConfig))


@lru_cache(maxsize=100_000)
def _parse(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def enter(ledger: Ledger, composer: Composer, points: Iterable[Sequence[str]]) -> list[Job]:
    """Enter the points of a grid into the ledger, all or none, and return their jobs.

    A point whose words are in the ledger keeps the config that it was frozen with.

    Raises:
        UserError: if any point is impossible, or if two are the same experiment.
    """
    words = [tuple(point) for point in points]
    problems: list[str] = []
    jobs: list[Job] = []
    first: dict[str, tuple[str, ...]] = {}
    for point, label in zip(words, varied(words), strict=True):
        shown = " ".join(label) or " ".join(point)
        job = ledger.find(point)
        if job is None:
            try:
                config = composer.config(point)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                problems.append(f"job {shown}: {told(error, point)}".replace("\n", "\n  "))
                continue
            job = ledger.add(point, label, config.plain())
        if (other := first.get(job.digest)) is not None:
            what = "given twice" if other == point else f"the same experiment as job {' '.join(other)}"
            problems.append(f"job {' '.join(point)}: {what}")
        first[job.digest] = point
        jobs.append(job)
    if problems:
        rest = len(problems) - SHOWN_PROBLEMS
        more = [f"… and {rest} more"] if rest > 0 else []
        count = f"{len(problems)} of {len(words)} jobs cannot run, so none was started:"
        raise UserError("\n".join([count, *problems[:SHOWN_PROBLEMS], *more]))
    return jobs


def told(error: Exception, words: Sequence[str]) -> UserError:
    """Say what is wrong with a point, in words for people.

    Args:
        error: what its composition raised.
        words: of the point.
    """
    return error if isinstance(error, UserError) else explain(error, [*_config_folders(), *words])


def _config_folders() -> list[str]:
    """Return the words of this command line that name a user's own config folders."""
    return [f"--config-dir={root}" for root in search_roots(sys.argv[1:]) if root != CONF]
