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
"""Entries of a large metrics.jsonl that are read."""
MAX_DAMAGED = 1000
"""Damaged lines after which the rest of metrics.jsonl is not read: a process that is killed leaves one."""
MAX_LINE_BYTES = 2**20
"""About how many bytes a line of metrics.jsonl may have."""
MAX_METRICS = 10_000
"""Metrics of different names after which the rest of metrics.jsonl is not read; there is a curve for each."""
MAX_VALUES = 12_000_000
"""Values of a metrics.jsonl that are read."""
_MOST = 2**63
_MOST_EPOCHS = 2**31 - 1


def read_metrics(path: Path, damaged: Callable[[], object] | None = None) -> list[dict[str, Any]]:
    """Return what a run logged, in order: {"step", "epoch", "time", metrics…}; NaN where a number was not finite.

    A line that a crash tore is left out. A resumed run repeats the steps after its last checkpoint; what they gave the
    first time is left out too.

    Args:
        path: a run folder, or its metrics.jsonl.
        damaged: called once if lines had to be left out.
    """
    root, name = (path.parent, path.name) if path.suffix == ".jsonl" else (path, "metrics.jsonl")
    entries: list[dict[str, Any]] = []
    starts: list[tuple[int, int]] = []
    names: set[str] = set()
    values = left_out = 0
    try:
        with open_below(root, name) as file:
            for lines in line_groups(file, root / name, MAX_LINE_BYTES):
                parsed = _logged_together(lines)
                if parsed is None:
                    parsed = _logged_line_by_line(lines)
                    left_out += lines.count(b"\n") + 1 - len(parsed)
                found = [entry for entry in parsed if _is_entry(entry)]
                left_out += len(parsed) - len(found)
                names.update(*found)
                values += sum(map(len, found))
                if len(names) > MAX_METRICS or values > MAX_VALUES:
                    left_out += 1
                    break
                _add(found, entries, starts)
                if len(entries) >= MAX_ENTRIES or left_out >= MAX_DAMAGED:
                    left_out += 1
                    break
    except FileNotFoundError:
        return []
    except (OSError, UserError):  # what comes before it counts
        left_out += 1
    if left_out and damaged is not None:
        damaged()
    return _without_repeated(entries, starts) if starts else entries


def _add(found: list[dict[str, Any]], entries: list[dict[str, Any]], starts: list[tuple[int, int]]) -> None:
    """Add entries whose values are numbers to those before them, and the places at which the run was resumed.

    Args:
        found: as parsed; values of other types are removed.
        entries: the entries before them.
        starts: for each resume, the number of entries before it, and its first step.
    """
    for entry in found:
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
    """Return whether a parsed line has a step, an epoch and floats only, so that nothing in it has to be changed."""
    return (
        type(value) is dict
        and _is_integer(value.get("step"))
        and _is_integer(value.get("epoch"))
        and 0 <= value["epoch"] < _MOST_EPOCHS
        and "resumed" not in value
        and [*map(type, value.values())].count(float) == len(value) - 2
    )


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_MOST <= value < _MOST


def _is_entry(value: Any) -> bool:
    """Return whether a parsed line has a step and an epoch; both may be null."""
    if not isinstance(value, dict) or "step" not in value:
        return False
    step, epoch = value["step"], value.get("epoch")
    return (step is None or _is_integer(step)) and (epoch is None or (_is_integer(epoch) and 0 <= epoch < _MOST_EPOCHS))


def _without_repeated(entries: list[dict[str, Any]], starts: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return the entries without those that a resumed run repeats.

    Args:
        entries: in the order of the file.
        starts: for each resume, the number of entries before it, and its first step. Those entries count up to that step.
    """
    end, first = starts[-1]
    kept = entries[: end - 1 if end else None : -1]
    for start, step in [*reversed(starts[:-1]), (0, 0)]:
        kept += (entry for entry in reversed(entries[start:end]) if (entry["step"] or 0) < first)
        end, first = start, min(first, step)
    return kept[::-1]


def _logged_together(text: bytes) -> list[Any] | None:
    """Return all lines parsed at once, which is several times faster; None if one of them is damaged."""
    with suppress(ValueError):
        return from_json(b"[%b]" % text.rstrip(b"\n").replace(b"\n", b","))  # type: ignore[no-any-return]
    return None


def _logged_line_by_line(text: bytes) -> list[Any]:
    """Return the entries that can be parsed, up to the first `MAX_DAMAGED` lines that cannot."""
    found = []
    damaged = 0
    for line in text.split(b"\n"):
        entry = None
        with suppress(UserError):
            entry = parse_json(line.decode("utf-8", "replace"), "metrics.jsonl")
        if _is_entry(entry):
            found.append(entry)
        elif line:
            damaged += 1
            if damaged == MAX_DAMAGED:
                break
    return found
