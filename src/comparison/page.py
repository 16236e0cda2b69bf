"""report.html: a comparison as one page that needs no network and no other file.

The page is hand-written (page/): its script draws SVG and is a twentieth of what a plotting library would add. Data go
in as JSON, and reach the page as text alone. The page's Content-Security-Policy allows its own script, by its hash, and no
network.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from src.comparison.chart_data import Axis, answers, axis, band, best_rows, far_apart, label, metrics_drawn
from src.comparison.config_keys import short, shown
from src.comparison.console_table import legend, statuses_of
from src.comparison.importance import importance
from src.comparison.statistics import Sample, mark, number
from src.comparison.view import Row, View
from src.core.escape import json_in_html
from src.core.files import write_below
from src.run_store.config_file import plain
from src.run_store.recorded_run import is_number

PAGE = Path(__file__).parent / "page"
MOST_CURVES = 100
"""Best rows whose curves are in the page; nobody compares more by eye."""
MOST_POINTS = 200
"""Points of a curve; longer ones keep points at equal distances, and the last."""
MOST_ANSWERS = 10
"""Best rows whose answers are in the page."""
MOST_CHARACTERS = 500
"""Characters of a name or a value of a config."""
MOST_PICTURE_BYTES = 4_000_000
"""Bytes of the attention maps that are put into a page, the best rows' of the first view first."""


def write_report(
    path: Path,
    views: Sequence[tuple[View, Sequence[str]]],
    places: Sequence[str],
    pending: int = 0,
    remarks: object = "",
    reload: float | None = None,
) -> Path:
    """Write the page, replacing an earlier one as a whole, and return its file.

    Args:
        path: of the file.
        views: to show, each with the columns beside rank and metric.
        places: the folders or projects that are compared.
        pending: jobs that have not started.
        remarks: whose text says what was left out, a line each.
        reload: seconds after which the page looks for a newer one; None for never.
    """
    runs = [run for view, _ in views for run in view.runs]
    pictures = _Pictures()
    shown_views = [
        _view(view, columns, pictures) for view, columns in views
    ]  # which reads curves, and may add to the remarks
    data = {
        "title": f"Comparison of {', '.join(shown(Path(place).name or place) for place in places)}",
        "places": [shown(place) for place in places],
        "counts": statuses_of(runs, pending),
        "remarks": str(remarks).splitlines(),
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "reload": reload,
        "views": shown_views,
    }
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    for mark_, part in (
        ("SCRIPT_HASH", base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        ("/*STYLE*/", (PAGE / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", script),
        ("/*DATA*/", json_in_html(plain(data))),  # last, so that no mark in it is replaced
    ):
        page = page.replace(mark_, part, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_below(path.parent, path.name, page)
    return path


def _cut(text: str) -> str:
    """Return a text, shortened if no cell could show it."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


class _Pictures:
    """The attention maps of a page, up to `MOST_PICTURE_BYTES`."""

    def __init__(self) -> None:
        self._room = MOST_PICTURE_BYTES

    def taken(self, found: Mapping[str, bytes]) -> list[dict[str, str]]:
        """Return those of a run's attention maps that there is room for."""
        taken = []
        for name, png in found.items():
            if len(png) <= self._room:
                self._room -= len(png)
                taken.append(_picture(name, png))
        return taken


def _view(view: View, columns: Sequence[str], pictures: _Pictures) -> dict[str, Any]:
    ranked = best_rows(view, len(view.rows))
    drawn = {id(row) for row in ranked[:MOST_CURVES]}
    metrics = metrics_drawn(view, ranked[:MOST_CURVES])
    rows = []
    for row in view.rows:
        entry: dict[str, Any] = {
            "rank": row.rank,
            "label": _cut(label(row, view.keys)),
            "place": _cut(shown(row.best.place)),
            "value": row.score.mean if row.score else None,
            "cells": _cells(view, row, columns),
            "curves": _curves(row, metrics) if id(row) in drawn else None,
        }
        if row.rank and row.rank <= MOST_ANSWERS:
            entry["answers"] = answers(row.best)
            entry["pictures"] = pictures.taken(row.best.read_attention())
        rows.append(entry)
    values = [row.score.mean for row in ranked if row.score]
    several = view.repeated
    left_out = f" The best {MOST_CURVES} of {len(ranked)} rows have curves here." if len(ranked) > MOST_CURVES else ""
    return {
        "title": _cut(view.title),
        "metric": view.metric,
        "mode": view.mode,
        "heads": _heads(view, columns),
        "rows": rows,
        "notes": legend(view, columns),
        "metrics": metrics,
        "curveNote": (
            "Mean of the repetitions, and the range that they span; one that stopped early keeps its last value."
            if several
            else "A line a run."
        )
        + left_out,
        "axes": [_axis(axis(key, view.rows)) for key in view.keys],
        "logMetric": far_apart(values),
        "importance": _importance(view),
        "best": {"score": str(ranked[0].score), "label": _cut(label(ranked[0], view.keys))} if ranked else None,
    }


def _heads(view: View, columns: Sequence[str]) -> list[dict[str, Any]]:
    own = [("rank", True), (view.metric, True)]
    own += [("95 % interval", False)] if view.repeated else []
    own += [("vs best", False)] if view.test else []
    beside = [
        (name, not isinstance(view.rows[0].value(column), str | list | bool))
        for name, column in zip(short(columns), columns, strict=True)
    ]
    keys = [*(name for name, _ in own), *columns]
    return [
        {"name": _cut(shown(name)), "number": numeric, "key": _cut(key), "title": _cut(shown(key))}
        for (name, numeric), key in zip([*own, *beside], keys, strict=True)
    ]


def _cells(view: View, row: Row, columns: Sequence[str]) -> list[dict[str, Any]]:
    score = row.score
    cells: list[dict[str, Any]] = [
        {"text": str(row.rank or "–"), "value": row.rank},
        {"text": str(score or "–"), "value": score.mean if score else None},
    ]
    if view.repeated:
        low = score.interval[0] if score and score.interval else None
        cells.append({"text": score.shown_interval() if score else "", "value": low})
    if view.test:
        cells.append({"text": mark(row.p), "value": row.p})
    for column in columns:
        value = row.value(column)
        sortable = value.mean if isinstance(value, Sample) else value
        cells.append(
            {
                "text": _cut(row.text(column)),
                "value": sortable if is_number(sortable) or value is None else _cut(shown(value)),
            }
        )
    return cells


def _curves(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in metrics:
        drawn = band(row.counted, name)
        if drawn is None:
            continue
        step = -(-len(drawn.epochs) // MOST_POINTS)
        kept = sorted({*range(0, len(drawn.epochs), step), len(drawn.epochs) - 1})
        found[name] = {"epochs": [drawn.epochs[i] for i in kept], "mean": [_rounded(drawn.mean[i]) for i in kept]}
        if len(row.counted) > 1:
            found[name]["low"] = [_rounded(drawn.low[i]) for i in kept]
            found[name]["high"] = [_rounded(drawn.high[i]) for i in kept]
    return found


def _rounded(value: float) -> float | None:
    """Return a number with the digits that a screen can show."""
    return float(f"{value:.4g}") if isfinite(value) else None


def _axis(found: Axis) -> dict[str, Any]:
    names = [_cut(name) for name in found.names]
    return {"key": _cut(found.key), "values": found.values, "names": names, "log": found.logarithmic}


def _importance(view: View) -> dict[str, Any] | None:
    found = importance(view)
    if found is None:
        return None
    note = (
        f"What a random forest's R² of the rank loses when a key is shuffled; it explains {100 * found.explained:.0f} % "
        f"of rows that it has not seen, {number(len(view.rows))} rows in all."
    )
    if not found.tells:
        note = f"These rows do not tell what matters: a forest explains {100 * found.explained:.0f} % of unseen ones."
    return {"keys": list(map(_cut, found.keys)), "loss": found.loss, "deviation": found.deviation, "note": note}


def _picture(name: str, png: bytes) -> dict[str, str]:
    return {
        "name": _cut(shown(name.replace("-", " "))),
        "data": f"data:image/png;base64,{base64.b64encode(png).decode()}",
    }
