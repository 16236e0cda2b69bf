"""Filter runs by conditions such as ``optimizer.name=adam val/loss<0.3 tag=baseline``."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from src.core.errors import UserError, nearest

_OPERATORS = ("<=", ">=", "!=", "==", "<", ">", "=")

GROUPS = ("model", "datamodule", "optimizer", "scheduler", "trainer")
"""Sections of a config that are abbreviations of their ``name``: ``optimizer=adam`` is ``optimizer.name=adam``."""

RECORDED = ("status", "seconds", "parameters", "multiply_adds", "value", "best_epoch", "seed")
"""Keys of a record that a condition can test, besides the metrics."""


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Args:
        key: a key of the config, a metric such as ``val/loss``, one of `RECORDED`, or ``tag``, ``id``, ``sweep``.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
        value: a number, true, false, null, a list, or a text in which ``*`` matches any characters.
    """

    key: str
    operator: str
    value: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether a run matches the condition. A run without the key does not match.

        Args:
            values: values of the run, as `condition_values` returns them.
        """
        if self.key not in values:
            return False
        value = values[self.key]
        if self.operator == "=":
            return _equal(value, self.value)
        if self.operator == "!=":
            return not _equal(value, self.value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        low, high = (value, self.value) if self.operator[0] == "<" else (self.value, value)
        return low <= high if self.operator[1:] else low < high

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.value}"


def parse_conditions(texts: str | Sequence[str]) -> list[Condition]:
    """Parse conditions, all of which must hold.

    Args:
        texts: conditions; a text may hold several, separated by spaces.

    Raises:
        UserError: if a text is not a condition.
    """
    try:
        parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"cannot read the filter: {str(error).lower()}") from error
    return [_parse_condition(part) for part in parts]


def _parse_condition(condition: str) -> Condition:
    match = re.fullmatch(rf"([^<>=!]+)({'|'.join(_OPERATORS)})(.*)", condition)
    if match is None or not match[3]:
        raise UserError(
            f"{condition}: a condition is key=value, key!=value, key<number, <=, > or >=, such as val/loss<0.3"
        )
    key, operator, text = match.groups()
    value = _parse_value(text)
    if operator[0] in "<>" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{condition}: {operator} compares numbers, but '{text}' is not a number")
    return Condition(f"{key}.name" if key in GROUPS else key, "=" if operator == "==" else operator, value)


def _parse_value(text: str) -> Any:
    """Return the number, boolean, null or list that a text represents, or the text itself."""
    try:
        return (
            float(text) if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text, re.IGNORECASE) else json.loads(text.lower())
        )
    except ValueError:
        return [_parse_value(part.strip()) for part in text[1:-1].split(",")] if re.fullmatch(r"\[.+\]", text) else text


def _equal(value: Any, expected: Any) -> bool:
    """Return whether a value of a run is equal to that of a condition, matches its pattern, or contains it in a list."""
    if isinstance(value, list | tuple) and not isinstance(expected, list):
        return any(_equal(item, expected) for item in value)
    if isinstance(expected, list):
        if not isinstance(value, list | tuple) or len(value) != len(expected):
            return False
        return all(_equal(*pair) for pair in zip(value, expected, strict=True))
    if isinstance(value, bool) or isinstance(expected, bool) or value is None or expected is None:
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        return math.isclose(value, expected, rel_tol=1e-9)
    return fnmatchcase(str(value), str(expected))


def matching(conditions: Sequence[Condition], values: Iterable[Mapping[str, Any]]) -> Iterator[bool]:
    """Yield for each run whether all conditions hold.

    Args:
        conditions: what `parse` returned.
        values: for each run what `condition_values` returned.

    Raises:
        UserError: if no run has the key of a condition.
    """
    runs = list(values)
    for condition in conditions:
        if runs and not any(condition.key in run for run in runs):
            names = {key for run in runs for key in run}
            longer = sorted(name for name in names if name.endswith((f".{condition.key}", f"/{condition.key}")))
            advice = f"Did you mean {' or '.join(map(repr, longer))}?" if longer else nearest(condition.key, names)
            raise UserError(f"{condition}: no run has '{condition.key}'. {advice}")
    for run in runs:
        yield all(condition.holds(run) for condition in conditions)


def condition_values(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run that a condition can test, by key.

    Args:
        config: the resolved config of the run.
        record: its run.json. The metrics are those of the best epoch and of the test.
    """
    values: dict[str, Any] = dict(flatten(config))
    values |= {key: record[key] for key in RECORDED if record.get(key) is not None}
    values |= recorded_metrics(record)
    values["tag"] = record.get("tags", config.get("tags") or [])
    values["id"] = (record.get("wandb") or {}).get("id")
    return values


def recorded_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of the best epoch and of the test from a record."""
    return {**record.get("best", {}), **record.get("final", {})}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested config with their dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
