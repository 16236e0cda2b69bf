"""Conditions on the runs of a comparison: those of `src.run_store.filters`, with the names and columns of the comparison.

``optimizer=adam,sgd`` matches either value; ``lr`` is enough for ``optimizer.lr`` if it is unambiguous.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from src.comparison.config_keys import informative_keys, resolve_name
from src.comparison.view import COLUMNS, measurement, names_of
from src.core.errors import UserError
from src.run_store.filters import Condition, parse_conditions
from src.run_store.recorded_run import RecordedRun


@dataclass(frozen=True)
class RunFilter:
    """A condition that a run must meet.

    Args:
        text: as typed.
        conditions: alternatives, one of which must hold; with ``!=`` all of them must hold.
    """

    text: str
    conditions: tuple[Condition, ...]

    def matches(self, run: RecordedRun) -> bool:
        """Return whether a run meets the condition; a run without such a value does not."""
        values = _values_by_name(run)
        combine = all if self.conditions[0].operator == "!=" else any
        return combine(condition.holds(values) for condition in self.conditions)


def is_condition(argument: str) -> bool:
    """Return whether an argument of the command line is a condition."""
    with suppress(UserError):
        return bool(parse_conditions([argument]))
    return False


def parse_filters(text: str, runs: Sequence[RecordedRun]) -> list[RunFilter]:
    """Parse conditions.

    Args:
        text: conditions, separated by spaces.
        runs: runs whose keys, metrics and columns may be named.

    Raises:
        UserError: if a condition is invalid, or names what no run has.
    """
    names, keys = names_of(runs), informative_keys(runs)[0]
    filters = []
    for condition in parse_conditions(text):
        resolved = replace(condition, key=resolve_name(condition.key, names, keys))
        alternatives = [resolved]
        if isinstance(resolved.value, str) and resolved.operator in ("=", "!="):
            prefix = f"{resolved.key}{resolved.operator}"
            parts = [part for part in resolved.value.split(",") if part]
            alternatives = [each for part in parts for each in parse_conditions([f"{prefix}{part}"])] or [resolved]
        filters.append(RunFilter(str(condition), tuple(alternatives)))
    return filters


def matching_runs(runs: Sequence[RecordedRun], filters: Sequence[RunFilter]) -> list[RecordedRun]:
    """Return the runs that match all filters.

    Raises:
        UserError: if there are none; the message has the number of runs that match each filter.
    """
    matching = [run for run in runs if all(each.matches(run) for each in filters)]
    if not matching:
        counts = (f"{each.text}: {sum(map(each.matches, runs))}" for each in filters)
        raise UserError(f"none of {len(runs)} runs matches; each condition alone matches\n" + "\n".join(counts))
    return matching


def _values_by_name(run: RecordedRun) -> dict[str, Any]:
    """Return everything that a condition may test, by name."""
    measures = {name: measurement(run, name) for name in (*COLUMNS, run.metric, *run.summary)}
    numbers = {name: value for name, value in measures.items() if value is not None}
    return {**run.config, **numbers, "status": run.status, "run": run.name, "runs": 1}
