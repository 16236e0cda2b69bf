"""Which keys of the configs a comparison shows, and what a person means by a name."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from src.core.errors import UserError, nearest
from src.run_store.recorded_run import RecordedRun

MISSING = "-"
"""What is shown where a run has no such key."""

_REPEATS = ("seed", "fold")
_LEADING = ("model.name", "datamodule.name", "optimizer.name", "scheduler.name")


@cache
def repeats(key: str) -> bool:
    """Whether runs that differ in a key alone are repetitions of each other: a seed or a fold."""
    last = key.rpartition(".")[2]
    return last in _REPEATS or last.endswith(tuple(f"_{word}" for word in _REPEATS))


def shown(value: Any) -> str:
    """Return a value of a config as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)  # control characters would reach the terminal
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def comparable(value: Any) -> Any:
    """Return something that can be hashed and is equal for equal values."""
    return value if value is None or isinstance(value, str | int | float) else shown(value)


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that are not the same in all configs, in the order in which they first stand there."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({comparable(config.get(key, MISSING)) for config in configs}) > 1]


def telling(runs: Sequence[RecordedRun]) -> tuple[list[str], list[str]]:
    """Return the differing keys that a table needs, and those that follow from them.

    A key follows if it has the values of another, as ``model.dropout`` has those of ``regularization.dropout``, or if it
    is fixed by the option that was chosen, as ``model.hidden_sizes`` is by ``model.name``. A key that was given on the
    command line is always needed. Seeds and folds are neither.

    Args:
        runs: to compare.
    """
    configs = [run.config for run in runs]
    keys = [key for key in differing(configs) if not repeats(key)]
    given = {word.partition("=")[0].lstrip("+~") for run in runs for word in _words(run)}
    values = {key: tuple(comparable(config.get(key, MISSING)) for config in configs) for key in keys}
    keys.sort(key=lambda key: (not _given(key, given), key not in _LEADING))
    names = [key for key in keys if key in _LEADING]
    needed: list[str] = []
    following: list[str] = []
    known: set[tuple[Any, ...]] = set()
    for key in keys:
        copied = values[key] in known
        fixed = any(_follows(values[key], values[name]) for name in names if name != key)
        if _given(key, given) or not (copied or fixed):
            needed.append(key)
            known.add(values[key])
        else:
            following.append(key)
    return needed, following


def _words(run: RecordedRun) -> list[str]:
    return [word.strip("'\"") for word in str(run.record.get("command") or "").split() if "=" in word]


def _given(key: str, given: set[str]) -> bool:
    """Whether a command chose a key, or the option that the key names."""
    return key in given or (key.endswith(".name") and key.removesuffix(".name") in given)


def _follows(values: Sequence[Any], names: Sequence[Any]) -> bool:
    known: dict[Any, Any] = {}
    return all(known.setdefault(name, value) == value for name, value in zip(names, values, strict=True))


def short(columns: Sequence[str]) -> list[str]:
    """Return the last part of each config key, or its option's group, where no other column is called so."""
    parts = [_last(column) for column in columns]
    counts = Counter(parts)
    return [part if counts[part] == 1 else column for part, column in zip(parts, columns, strict=True)]


def _last(column: str) -> str:
    if "/" in column:
        return column
    return column.removesuffix(".name").rpartition(".")[2]


def meant(word: str, known: Iterable[str], shown: Sequence[str] = ()) -> str:
    """Return the one of the known names that a person means: as it is, or its last part alone where only one ends so;
    ``optimizer`` is ``optimizer.name``, as on the command line of training.

    Args:
        word: what was typed.
        known: config keys, metrics and columns.
        shown: those of the keys that a table shows: of several with the same end, the one that is shown is meant.

    Raises:
        UserError: if none is meant, or if several are.
    """
    names = list(dict.fromkeys(known))
    if word in names:
        return word
    if f"{word}.name" in names:
        return f"{word}.name"
    ends = [name for name in names if name.endswith((f".{word}", f"/{word}"))]
    if len(ends) > 1 and len(among := [name for name in ends if name in shown]) == 1:
        return among[0]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{word}: which one? {', '.join(ends[:10])}")
    last = {name.rpartition(".")[2].rpartition("/")[2]: name for name in names}
    advice = nearest(word, names)
    if not advice.startswith("Did") and (near := nearest(word, last)).startswith("Did"):
        found = near.removeprefix("Did you mean '").partition("'? Possible: ")[0]
        advice = f"Did you mean '{last[found]}'? {advice}"
    raise UserError(f"{word}: there is no such key, metric or column. {advice}")
