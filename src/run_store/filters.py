"""Conditions on runs: ``optimizer.name=adam val/loss<0.3 tag=baseline``."""

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
"""Sections of a config that go by their name: ``optimizer=adam`` is ``optimizer.name=adam``."""

RECORDED = ("status", "seconds", "parameters", "multiply_adds", "value", "best_epoch", "seed")
"""What a condition may ask of a record beside config and metrics."""


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Args:
        key: a key of the config, a metric such as ``val/loss``, one of `RECORDED`, or ``tag``, ``id``, ``sweep``.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
        value: a number, true, false, null, a list, or a word in which ``*`` stands for any characters.
    """

    key: str
    operator: str
    value: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Tell whether a run fulfils the condition; one that does not know the key does not.

        Args:
            values: what is known of the run, as `known` returns it.
        """
        if self.key not in values:
            return False
        found = values[self.key]
        if self.operator == "=":
            return _same(found, self.value)
        if self.operator == "!=":
            return not _same(found, self.value)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            return False
        low, high = (found, self.value) if self.operator[0] == "<" else (self.value, found)
        return low <= high if self.operator[1:] else low < high

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.value}"


def parse(words: str | Sequence[str]) -> list[Condition]:
    """Return the conditions that some words state, all of which must hold.

    Args:
        words: conditions, several in a word where spaces separate them.

    Raises:
        UserError: for what is no condition.
    """
    try:
        parts = [part for word in ([words] if isinstance(words, str) else words) for part in shlex.split(word)]
    except ValueError as error:
        raise UserError(f"cannot read the filter: {str(error).lower()}") from error
    return [_condition(part) for part in parts]


def _condition(word: str) -> Condition:
    found = re.fullmatch(rf"([^<>=!]+)({'|'.join(_OPERATORS)})(.*)", word)
    if found is None or not found[3]:
        raise UserError(f"{word}: a condition is key=value, key!=value, key<number, <=, > or >=, such as val/loss<0.3")
    key, operator, text = found.groups()
    value = _value(text)
    if operator[0] in "<>" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{word}: {operator} compares numbers, and '{text}' is none")
    return Condition(f"{key}.name" if key in GROUPS else key, "=" if operator == "==" else operator, value)


def _value(text: str) -> Any:
    """Return a number, truth value, null or list as such, and anything else as the word that it is."""
    try:
        return (
            float(text) if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text, re.IGNORECASE) else json.loads(text.lower())
        )
    except ValueError:
        return [_value(part.strip()) for part in text[1:-1].split(",")] if re.fullmatch(r"\[.+\]", text) else text


def _same(found: Any, value: Any) -> bool:
    if isinstance(found, list | tuple) and not isinstance(value, list):
        return any(_same(item, value) for item in found)
    if isinstance(value, list):
        pairs = zip(found, value, strict=False) if isinstance(found, list | tuple) else ()
        return isinstance(found, list | tuple) and len(found) == len(value) and all(_same(*pair) for pair in pairs)
    if isinstance(found, bool) or isinstance(value, bool) or found is None or value is None:
        return found is value
    if isinstance(found, int | float) and isinstance(value, int | float):
        return math.isclose(found, value, rel_tol=1e-9)
    return fnmatchcase(str(found), str(value))


def matching(conditions: Sequence[Condition], values: Iterable[Mapping[str, Any]]) -> Iterator[bool]:
    """Yield for each run whether all conditions hold.

    Args:
        conditions: what `parse` returned.
        values: for each run what `known` returned.

    Raises:
        UserError: for a key that no run knows.
    """
    runs = list(values)
    for condition in conditions:
        if runs and not any(condition.key in run for run in runs):
            names = {key for run in runs for key in run}
            ends = sorted(
                key for key in names if key.endswith(f".{condition.key}") or key.endswith(f"/{condition.key}")
            )
            advice = f"Did you mean {' or '.join(map(repr, ends))}?" if ends else nearest(condition.key, names)
            raise UserError(f"{condition}: no run has '{condition.key}'. {advice}")
    for run in runs:
        yield all(condition.holds(run) for condition in conditions)


def known(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a condition may ask of a run, by key.

    Args:
        config: its resolved config.
        record: its run.json; metrics are those of the best epoch, and of the test.
    """
    facts: dict[str, Any] = dict(flat(config))
    facts |= {key: record[key] for key in RECORDED if record.get(key) is not None}
    facts |= measured(record)
    facts["tag"] = record.get("tags", config.get("tags") or [])
    facts["id"] = (record.get("wandb") or {}).get("id")
    return facts


def measured(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of the best epoch and of the test that a record has."""
    parts = [record.get(name) for name in ("best", "final")]
    return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested config with their dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
