"""Keys of the configs that a comparison shows, and abbreviated names of keys, metrics and columns."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from src.core.errors import UserError, nearest
from src.run_store.recorded_run import RecordedRun

MISSING = "-"
"""Shown for a run that does not have a key."""

_REPEATS = ("seed", "fold")
_LEADING = ("model.name", "datamodule.name", "optimizer.name", "scheduler.name")


@cache
def is_repetition_key(key: str) -> bool:
    """Return whether runs that differ only in a key are repetitions of each other: a seed or a fold."""
    last = key.rpartition(".")[2]
    return last in _REPEATS or last.endswith(tuple(f"_{name}" for name in _REPEATS))


def format_value(value: Any) -> str:
    """Return a value of a config as written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)  # no control characters reach the terminal
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def comparable(value: Any) -> Any:
    """Return a hashable equivalent of a value, equal for equal values."""
    return value if value is None or isinstance(value, str | int | float) else format_value(value)


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all configs, in order of first appearance."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({comparable(config.get(key, MISSING)) for config in configs}) > 1]


def informative_keys(runs: Sequence[RecordedRun]) -> tuple[list[str], list[str]]:
    """Return the differing keys that a table needs, and the dependent keys, which it does not.

    A key is dependent if it has the values of another, as ``model.dropout`` has those of ``regularization.dropout``, or if
    it is determined by an option, as ``model.hidden_sizes`` is by ``model.name``. A key that was set on the command line is
    always needed. Seeds and folds are neither.

    Args:
        runs: runs to compare.
    """
    configs = [run.config for run in runs]
    keys = [key for key in differing(configs) if not is_repetition_key(key)]
    set_keys = {text.partition("=")[0].lstrip("+~") for run in runs for text in _command_overrides(run)}
    values = {key: tuple(comparable(config.get(key, MISSING)) for config in configs) for key in keys}
    keys.sort(key=lambda key: (not _is_set(key, set_keys), key not in _LEADING))
    names = [key for key in keys if key in _LEADING]
    needed: list[str] = []
    dependent: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for key in keys:
        is_copy = values[key] in seen
        is_determined = any(_is_function_of(values[key], values[name]) for name in names if name != key)
        if _is_set(key, set_keys) or not (is_copy or is_determined):
            needed.append(key)
            seen.add(values[key])
        else:
            dependent.append(key)
    return needed, dependent


def _command_overrides(run: RecordedRun) -> list[str]:
    return [text.strip("'\"") for text in str(run.record.get("command") or "").split() if "=" in text]


def _is_set(key: str, set_keys: set[str]) -> bool:
    """Return whether a command set a key, or chose the option that the key names."""
    return key in set_keys or (key.endswith(".name") and key.removesuffix(".name") in set_keys)


def _is_function_of(values: Sequence[Any], names: Sequence[Any]) -> bool:
    """Return whether runs with equal names always have equal values."""
    value_of: dict[Any, Any] = {}
    return all(value_of.setdefault(name, value) == value for name, value in zip(names, values, strict=True))


def short_names(columns: Sequence[str]) -> list[str]:
    """Return short names of columns: the last part of a config key, or the group of an option, if it is unique."""
    parts = [_last(column) for column in columns]
    counts = Counter(parts)
    return [part if counts[part] == 1 else column for part, column in zip(parts, columns, strict=True)]


def _last(column: str) -> str:
    if "/" in column:
        return column
    return column.removesuffix(".name").rpartition(".")[2]


def resolve_name(name: str, names: Iterable[str], shown: Sequence[str] = ()) -> str:
    """Return the name that an abbreviation means: itself, or the only one whose last part it is; ``optimizer``
    is ``optimizer.name``, as on the command line of training.

    Args:
        name: as typed.
        names: config keys, metrics and columns.
        shown: keys that a table shows; of several candidates, the one among these is preferred.

    Raises:
        UserError: if no name or several names match.
    """
    choices = list(dict.fromkeys(names))
    if name in choices:
        return name
    if f"{name}.name" in choices:
        return f"{name}.name"
    candidates = [choice for choice in choices if choice.endswith((f".{name}", f"/{name}"))]
    if len(candidates) > 1:
        preferred = [candidate for candidate in candidates if candidate in shown]
        if len(preferred) == 1:
            return preferred[0]
        raise UserError(f"{name}: which one? {', '.join(candidates[:10])}")
    if candidates:
        return candidates[0]
    by_last_part = {choice.rpartition(".")[2].rpartition("/")[2]: choice for choice in choices}
    advice = nearest(name, choices)
    if not advice.startswith("Did"):
        last_part_advice = nearest(name, by_last_part)
        if last_part_advice.startswith("Did"):
            last_part = last_part_advice.removeprefix("Did you mean '").partition("'? Possible: ")[0]
            advice = f"Did you mean '{by_last_part[last_part]}'? {advice}"
    raise UserError(f"{name}: there is no such key, metric or column. {advice}")
