"""Read metrics.jsonl of a run folder."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from src.core.errors import UserError
from src.core.files import open_below
from src.core.records import line_groups, parse_json

MAX_ENTRIES = 2_000_000
"""Maximum number of entries of a metrics.jsonl that are read."""
MAX_DAMAGED = 1000
"""Number of damaged lines after which the rest of metrics.jsonl is not read. A process that is killed leaves one."""
MAX_LINE_BYTES = 2**20
"""Approximate maximum size of a line of metrics.jsonl in bytes."""
MAX_METRICS = 10_000
"""Number of distinct metric names after which the rest of metrics.jsonl is not read; each has a curve."""
MAX_VALUES = 12_000_000
"""Maximum number of values of a metrics.jsonl that are read."""
_MAX_INTEGER = 2**63
_MAX_EPOCHS = 2**31 - 1


def read_metrics(path: Path, damaged: Callable[[], object] | None = None) -> list[dict[str, Any]]:
    """Return the log entries of a run, in order: {"step", "epoch", "time", metrics…}, with NaN for numbers that were not finite.

    A line that was cut off by a crash is skipped. A resumed run repeats the steps after its last checkpoint; their first
    entries are skipped too.

    Args:
        path: a run folder, or its metrics.jsonl.
        damaged: called once if damaged lines were skipped.
    """
    root, name = (path.parent, path.name) if path.suffix == ".jsonl" else (path, "metrics.jsonl")
    entries: list[dict[str, Any]] = []
    starts: list[tuple[int, int]] = []
    names: set[str] = set()
    values = skipped = 0
    try:
        with open_below(root, name) as file:
            for lines in line_groups(file, root / name, MAX_LINE_BYTES):
                parsed = _parse_group(lines)
                if parsed is None:
                    parsed = _parse_lines(lines)
                    skipped += lines.count(b"\n") + 1 - len(parsed)
                valid = [entry for entry in parsed if _is_entry(entry)]
                skipped += len(parsed) - len(valid)
                names.update(*valid)
                values += sum(map(len, valid))
                if len(names) > MAX_METRICS or values > MAX_VALUES:
                    skipped += 1
                    break
                _add(valid, entries, starts)
                if len(entries) >= MAX_ENTRIES or skipped >= MAX_DAMAGED:
                    skipped += 1
                    break
    except FileNotFoundError:
        return []
    except (OSError, UserError):  # the entries before the error count
        skipped += 1
    if skipped and damaged is not None:
        damaged()
    return _without_repeated(entries, starts) if starts else entries


def _add(new: list[dict[str, Any]], entries: list[dict[str, Any]], starts: list[tuple[int, int]]) -> None:
    """Append entries with numeric values to `entries`, and the positions at which the run was resumed to `starts`.

    Args:
        new: the parsed entries, from which values of other types are removed.
        entries: the earlier entries.
        starts: for each resume, the number of entries before it, and its first step.
    """
    for entry in new:
        if _is_usual_entry(entry):
            entries.append(entry)
            continue
        if "resumed" in entry and entry.pop("resumed"):
            starts.append((len(entries), entry["step"] or 0))
        for key, value in [*entry.items()]:
            if isinstance(value, bool):
                entry[key] = int(value)
            elif value is None or (isinstance(value, int) and not _is_integer(value)):
                entry[key] = math.nan
            elif not isinstance(value, int | float):
                del entry[key]
        entries.append(entry)


def _is_usual_entry(value: Any) -> bool:
    """Return whether a parsed line has only a step, an epoch and floats, so that it can be used unchanged."""
    return (
        type(value) is dict
        and _is_integer(value.get("step"))
        and _is_integer(value.get("epoch"))
        and 0 <= value["epoch"] < _MAX_EPOCHS
        and "resumed" not in value
        and [*map(type, value.values())].count(float) == len(value) - 2
    )


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_MAX_INTEGER <= value < _MAX_INTEGER


def _is_entry(value: Any) -> bool:
    """Return whether a parsed line has a step and an epoch; both may be null."""
    if not isinstance(value, dict) or "step" not in value:
        return False
    step, epoch = value["step"], value.get("epoch")
    return (step is None or _is_integer(step)) and (epoch is None or (_is_integer(epoch) and 0 <= epoch < _MAX_EPOCHS))


def _without_repeated(entries: list[dict[str, Any]], starts: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return the entries without those whose steps a resumed run repeats.

    Args:
        entries: in the order of the file.
        starts: for each resume, the number of entries before it, and its first step. Earlier entries count only below that
            step.
    """
    end, first = starts[-1]
    newest_first = entries[: end - 1 if end else None : -1]
    for start, step in [*reversed(starts[:-1]), (0, 0)]:
        newest_first += (entry for entry in reversed(entries[start:end]) if (entry["step"] or 0) < first)
        end, first = start, min(first, step)
    return newest_first[::-1]


def _parse_group(text: bytes) -> list[Any] | None:
    """Parse all lines at once, which is several times faster; return None if one of them is damaged."""
    with suppress(ValueError):
        return from_json(b"[%b]" % text.rstrip(b"\n").replace(b"\n", b","))  # type: ignore[no-any-return]
    return None


def _parse_lines(text: bytes) -> list[Any]:
    """Parse each line by itself, until `MAX_DAMAGED` lines could not be parsed, and return the valid entries."""
    entries = []
    damaged = 0
    for line in text.split(b"\n"):
        entry = None
        with suppress(UserError):
            entry = parse_json(line.decode("utf-8", "replace"), "metrics.jsonl")
        if _is_entry(entry):
            entries.append(entry)
        elif line:
            damaged += 1
            if damaged == MAX_DAMAGED:
                break
    return entries
