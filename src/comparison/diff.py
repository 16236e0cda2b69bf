"""Two runs side by side: the keys that differ, the metrics, the curves."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from src.comparison.config_keys import MISSING, differing, format_value
from src.comparison.statistics import format_number
from src.comparison.view import COLUMNS, Row, View, measurement
from src.core.console import format_duration
from src.core.errors import UserError, nearest
from src.core.tables import new_table, show
from src.run_store.recorded_run import Curve, RecordedRun

_BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32
"""Largest number of characters of a curve."""


def resolve_run(name: str, runs: Sequence[RecordedRun], rows: Sequence[Row]) -> RecordedRun:
    """Return the run with a rank, a name, a part of a name, or a folder.

    Args:
        name: rank, name, part of a name, or folder.
        runs: runs to search.
        rows: ranked rows; a rank means the best run of its row.

    Raises:
        UserError: if no run or several runs match.
    """
    if name.isdecimal():
        ranked = {row.rank: row.best for row in rows if row.rank}
        if int(name) in ranked:
            return ranked[int(name)]
    path = Path(name).absolute()
    matches = [run for run in runs if name in (run.name, run.place) or run.folder == path]
    if not matches:
        matches = [run for run in runs if name in run.name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name}: which run? {', '.join(run.name for run in matches[:5])}")
    raise UserError(f"{name}: there is no such run or rank. {nearest(name, (run.name for run in runs))}")


def print_diff(one: RecordedRun, other: RecordedRun) -> None:
    """Print the differences of two runs: configs, metrics and curves."""
    show(f"\nA  {format_value(one.place)}  ({one.status})\nB  {format_value(other.place)}  ({other.status})\n")
    keys = differing([one.config, other.config])
    if keys:
        table = new_table("key", "A", "B")
        for key in keys:
            table.add_row(key, *(format_value(run.config.get(key, MISSING)) for run in (one, other)))
        show(table)
    else:
        show("the configs are the same")
    table = new_table("metric", "A", "B", "B - A", numbers=("A", "B", "B - A"))
    names = dict.fromkeys([*one.summary, *other.summary, *(c for c in COLUMNS if c in ("gap", "time", "parameters"))])
    for name in names:
        a, b = measurement(one, name), measurement(other, name)
        show_value = format_duration if name == "time" else "{:,.0f}".format if name == "parameters" else format_number
        difference = "" if a is None or b is None or a == b else show_value(b - a)
        table.add_row(name, *("-" if value is None else show_value(value) for value in (a, b)), difference)
    show("")
    show(table)
    table = new_table("curve", "", "from", "to", "")
    for name in dict.fromkeys([*one.curves, *other.curves]):
        pair = [run.curves.get(name, Curve((), ())) for run in (one, other)]
        finite = [value for curve in pair for value in curve.values if isfinite(value)]
        longest = max(len(curve.values) for curve in pair)
        for letter, curve in zip("AB", pair, strict=True):
            if finite and len(curve.values):
                ends = format_number(curve.values[0]), format_number(curve.values[-1])
                table.add_row(name if letter == "A" else "", letter, *ends, sparkline(curve, finite, longest))
    show("")
    show(table)


def sparkline(curve: Curve, scale: Sequence[float], longest: int) -> str:
    """Return a curve as a line of bars.

    Args:
        curve: curve to draw.
        scale: numbers whose minimum and maximum are the lowest and the highest bar.
        longest: number of epochs of the whole width.
    """
    low, high = min(scale), max(scale)
    values = list(curve.values)
    width = min(WIDTH, longest)
    columns = max(1, round(width * len(values) / longest))
    sampled = [values[min(len(values) - 1, (2 * i + 1) * len(values) // (2 * columns))] for i in range(columns)]
    steps = len(_BARS) - 1
    return "".join(
        _BARS[round(steps * (value - low) / (high - low or 1))] if isfinite(value) else "·" for value in sampled
    )


def ranked_rows(views: Sequence[View]) -> list[Row]:
    """Return the rows whose ranks identify runs: those of the only view; none if there are several views."""
    return list(views[0].rows) if len(views) == 1 else []
