"""Conditions on the runs of a comparison: those of `src.run_store.filters`, with names and columns as the comparison has them.

``optimizer=adam,sgd`` asks for one of several, ``lr`` is enough for ``optimizer.lr`` where that is plain.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from src.comparison.config_keys import meant, telling
from src.comparison.view import COLUMNS, measured, names_of
from src.core.errors import UserError
from src.run_store.filters import Condition, parse
from src.run_store.recorded_run import RecordedRun


@dataclass(frozen=True)
class Wanted:
    """What a run must be.

    Args:
        text: as it was typed.
        conditions: one of them must hold; all, where they say what a run must not be.
    """

    text: str
    conditions: tuple[Condition, ...]

    def holds(self, run: RecordedRun) -> bool:
        """Tell whether a run is so; one without a value is not."""
        known = _known(run)
        every = all if self.conditions[0].operator == "!=" else any
        return every(condition.holds(known) for condition in self.conditions)


def is_condition(word: str) -> bool:
    """Whether a word of the command line is a condition, and no folder."""
    with suppress(UserError):
        return bool(parse([word]))
    return False


def conditions(text: str, runs: Sequence[RecordedRun]) -> list[Wanted]:
    """Read conditions.

    Args:
        text: conditions with spaces between them.
        runs: whose keys, metrics and columns may be named.

    Raises:
        UserError: if one is none, or names what no run has.
    """
    names, keys = names_of(runs), telling(runs)[0]
    found = []
    for condition in parse(text):
        named = replace(condition, key=meant(condition.key, names, keys))
        parts = named.value.split(",") if isinstance(named.value, str) and named.operator in ("=", "!=") else []
        several = [one for part in parts if part for one in parse([f"{named.key}{named.operator}{part}"])]
        found.append(Wanted(str(condition), tuple(several) or (named,)))
    return found


def kept(runs: Sequence[RecordedRun], wanted: Sequence[Wanted]) -> list[RecordedRun]:
    """Return the runs that are all that is wanted.

    Raises:
        UserError: if none is, with how many each condition alone leaves.
    """
    found = [run for run in runs if all(each.holds(run) for each in wanted)]
    if not found:
        counts = (f"{each.text}: {sum(map(each.holds, runs))}" for each in wanted)
        raise UserError(f"no run is left of {len(runs)}; each condition alone leaves\n" + "\n".join(counts))
    return found


def _known(run: RecordedRun) -> dict[str, Any]:
    """Return everything that a condition may ask of a run, by name."""
    numbers = {name: measured(run, name) for name in (*COLUMNS, run.metric, *run.summary)}
    facts = {name: value for name, value in numbers.items() if value is not None}
    return {**run.config, **facts, "status": run.status, "run": run.name, "runs": 1}
