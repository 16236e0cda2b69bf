"""report.html: a comparison as one page that needs no network and no other file.

The page is hand-written (page/): its script draws SVG and has a twentieth of the size of a plotting library. Data are embedded
as JSON, and are shown as text only. The page's Content-Security-Policy allows its own script, by its hash, and no network.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from src.comparison.chart_data import (
    Axis,
    axis,
    best_rows,
    label,
    mean_curve,
    metrics_drawn,
    needs_log_scale,
    recorded_predictions,
)
from src.comparison.config_keys import format_value, short_names
from src.comparison.console_table import count_statuses, legend
from src.comparison.importance import importance
from src.comparison.statistics import Sample, format_number, mark
from src.comparison.view import Row, View
from src.core.escape import json_in_html
from src.core.files import write_below
from src.run_store.config_file import to_plain
from src.run_store.recorded_run import is_number

PAGE = Path(__file__).parent / "page"
MAX_CURVES = 100
"""Best rows whose curves are in the page; more cannot be compared by eye."""
MAX_POINTS = 200
"""Points of a curve; longer curves are sampled at equal distances, and include the last point."""
MAX_PREDICTIONS = 10
"""Best rows whose predictions are in the page."""
MAX_CHARACTERS = 500
"""Largest number of characters of a name or a value of a config."""
MAX_IMAGE_BYTES = 4_000_000
"""Largest total size of the attention maps in a page; those of the best rows of the first view come first."""


def write_report(
    path: Path,
    views: Sequence[tuple[View, Sequence[str]]],
    places: Sequence[str],
    pending: int = 0,
    read_warnings: object = "",
    reload: float | None = None,
) -> Path:
    """Write the page, atomically replacing an earlier one, and return its file.

    Args:
        path: file to write.
        views: views to show, each with the columns after rank and metric.
        places: compared folders or projects.
        pending: number of jobs that have not started.
        remarks: object whose text lists what was left out, one line each.
        reload: seconds after which the page reloads itself; None for never.
    """
    runs = [run for view, _ in views for run in view.runs]
    images = _ImageBudget()
    view_data = [_view(view, columns, images) for view, columns in views]  # reads curves, which may add to the remarks
    data = {
        "title": f"Comparison of {', '.join(format_value(Path(place).name or place) for place in places)}",
        "places": [format_value(place) for place in places],
        "counts": count_statuses(runs, pending),
        "remarks": str(read_warnings).splitlines(),
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "reload": reload,
        "views": view_data,
    }
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    for placeholder, part in (
        ("SCRIPT_HASH", base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        ("/*STYLE*/", (PAGE / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", script),
        ("/*DATA*/", json_in_html(to_plain(data))),  # last, so that no placeholder in the data is replaced
    ):
        page = page.replace(placeholder, part, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_below(path.parent, path.name, page)
    return path


def _cut(text: str) -> str:
    """Return a text, shortened to `MAX_CHARACTERS`."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


class _ImageBudget:
    """Limits the attention maps of a page to `MAX_IMAGE_BYTES`."""

    def __init__(self) -> None:
        self._remaining = MAX_IMAGE_BYTES

    def select(self, maps: Mapping[str, bytes]) -> list[dict[str, str]]:
        """Return those attention maps of a run that the limit allows."""
        images = []
        for name, png in maps.items():
            if len(png) <= self._remaining:
                self._remaining -= len(png)
                data = base64.b64encode(png).decode()
                images.append(
                    {"name": _cut(format_value(name.replace("-", " "))), "data": f"data:image/png;base64,{data}"}
                )
        return images


def _view(view: View, columns: Sequence[str], images: _ImageBudget) -> dict[str, Any]:
    ranked = best_rows(view, len(view.rows))
    with_curves = {id(row) for row in ranked[:MAX_CURVES]}
    metrics = metrics_drawn(view, ranked[:MAX_CURVES])
    rows = []
    for row in view.rows:
        entry: dict[str, Any] = {
            "rank": row.rank,
            "label": _cut(label(row, view.keys)),
            "place": _cut(format_value(row.best.place)),
            "value": row.score.mean if row.score else None,
            "cells": _cells(view, row, columns),
            "curves": _curves(row, metrics) if id(row) in with_curves else None,
        }
        if row.rank and row.rank <= MAX_PREDICTIONS:
            entry["predictions"] = recorded_predictions(row.best)
            entry["images"] = images.select(row.best.read_attention())
        rows.append(entry)
    values = [row.score.mean for row in ranked if row.score]
    omitted = f" The best {MAX_CURVES} of {len(ranked)} rows have curves here." if len(ranked) > MAX_CURVES else ""
    return {
        "title": _cut(view.title),
        "metric": view.metric,
        "mode": view.mode,
        "heads": _heads(view, columns),
        "rows": rows,
        "notes": legend(view, columns),
        "metrics": metrics,
        "curveNote": (
            "Mean and range of the repetitions; a run that stopped early keeps its last value."
            if view.repeated
            else "One line for each run."
        )
        + omitted,
        "axes": [_axis(axis(key, view.rows)) for key in view.keys],
        "logMetric": needs_log_scale(values),
        "importance": _importance(view),
        "best": {"score": str(ranked[0].score), "label": _cut(label(ranked[0], view.keys))} if ranked else None,
    }


def _heads(view: View, columns: Sequence[str]) -> list[dict[str, Any]]:
    leading = [("rank", True), (view.metric, True)]
    leading += [("95 % interval", False)] if view.repeated else []
    leading += [("vs best", False)] if view.test else []
    others = [
        (name, not isinstance(view.rows[0].value(column), str | list | bool))
        for name, column in zip(short_names(columns), columns, strict=True)
    ]
    keys = [*(name for name, _ in leading), *columns]
    return [
        {"name": _cut(format_value(name)), "number": numeric, "key": _cut(key), "title": _cut(format_value(key))}
        for (name, numeric), key in zip([*leading, *others], keys, strict=True)
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
                "value": sortable if is_number(sortable) or value is None else _cut(format_value(value)),
            }
        )
    return cells


def _curves(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for name in metrics:
        curve = mean_curve(row.counted, name)
        if curve is None:
            continue
        last = len(curve.epochs) - 1
        step = -(-len(curve.epochs) // MAX_POINTS)
        indices = sorted({*range(0, last + 1, step), last})
        curves[name] = {
            "epochs": [curve.epochs[i] for i in indices],
            "mean": [_rounded(curve.mean[i]) for i in indices],
        }
        if len(row.counted) > 1:
            curves[name]["low"] = [_rounded(curve.low[i]) for i in indices]
            curves[name]["high"] = [_rounded(curve.high[i]) for i in indices]
    return curves


def _rounded(value: float) -> float | None:
    """Return a number with the digits that a screen can show."""
    return float(f"{value:.4g}") if isfinite(value) else None


def _axis(axis: Axis) -> dict[str, Any]:
    names = [_cut(name) for name in axis.names]
    return {"key": _cut(axis.key), "values": axis.values, "names": names, "log": axis.logarithmic}


def _importance(view: View) -> dict[str, Any] | None:
    result = importance(view)
    if result is None:
        return None
    explained = f"a random forest explains {100 * result.explained:.0f} % of held-out rows"
    note = f"Loss of R² of the rank when a key is shuffled; {explained}, of {format_number(len(view.rows))} rows."
    if not result.is_reliable:
        note = f"These rows are too few to estimate importance: {explained}."
    return {"keys": list(map(_cut, result.keys)), "loss": result.loss, "deviation": result.deviation, "note": note}
