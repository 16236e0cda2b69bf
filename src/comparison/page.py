"""report.html: a comparison as one page that needs no network and no other file.

Its charts are those of `src.comparison.charts`, drawn by Vega, which vl-convert provides as one script. The page's own script
(page/page.js) contains the table, the filter and what links the charts. Data are embedded as JSON, and are shown as text only.
The page's Content-Security-Policy allows these two scripts, by their hashes, and no network.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.comparison import charts
from src.comparison.chart_data import (
    Records,
    axis,
    best_rows,
    confusion_records,
    curve_label,
    curve_records,
    curve_scale,
    cut,
    label,
    metric_groups,
    prediction_records,
    recorded_predictions,
    row_records,
    score_axis,
)
from src.comparison.config_keys import format_value, short_names
from src.comparison.console_table import count_statuses, legend
from src.comparison.importance import Importance, importance
from src.comparison.statistics import Sample, format_number, mark
from src.comparison.view import COLUMNS, Row, View, is_measure, measurement, metrics_of, names_of
from src.core.escape import json_in_html
from src.core.files import write_below
from src.run_store.config_file import to_plain
from src.run_store.recorded_run import is_number

PAGE = Path(__file__).parent / "page"
MAX_CURVES = 100
"""Best rows whose curves are in the page; more cannot be compared by eye."""
MAX_KEYS = 9
"""Hyperparameters that are drawn, the most important first."""
MAX_PREDICTIONS = 10
"""Best rows whose predictions are in the page."""
MAX_IMAGE_BYTES = 4_000_000
"""Largest total size of the attention maps in a page; those of the best rows of the first view come first."""
MAX_SHARED_KEYS = 1000
"""Keys with the same value in all runs that a filter can name."""


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    vl-convert takes two seconds to bundle it, so that it is kept in the user's cache folder.
    """
    import vl_convert

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")).expanduser() / "gridlight"
    file = folder / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError):
        return file.read_text(encoding="utf-8")
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_below(folder, file.name, script)
    return script


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
        read_warnings: object whose text lists what was left out, one line each.
        reload: seconds after which the page reloads itself; None for never.
    """
    runs = [run for view, _ in views for run in view.runs]
    images = _ImageBudget()
    view_data = [_view(view, columns, images) for view, columns in views]  # reads curves, which may add to the warnings
    data = {
        "title": f"Comparison of {', '.join(format_value(Path(place).name or place) for place in places)}",
        "places": [format_value(place) for place in places],
        "counts": count_statuses(runs, pending),
        "remarks": str(read_warnings).splitlines(),
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "reload": reload,
        "palettes": charts.PALETTES,
        "themes": {mode: charts.theme(mode) for mode in charts.PALETTES},
        "views": view_data,
    }
    library, script = vega(), (PAGE / "page.js").read_text(encoding="utf-8")
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    for placeholder, part in (
        ("LIBRARY_HASH", _digest(library)),
        ("SCRIPT_HASH", _digest(script)),
        ("/*STYLE*/", (PAGE / "page.css").read_text(encoding="utf-8")),
        ("/*LIBRARY*/", library),
        ("/*SCRIPT*/", script),
        ("/*DATA*/", json_in_html(to_plain(data))),  # last, so that no placeholder in the data is replaced
    ):
        page = page.replace(placeholder, part, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_below(path.parent, path.name, page)
    return path


def _digest(script: str) -> str:
    """Return the hash by which a Content-Security-Policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


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
                    {"name": cut(format_value(name.replace("-", " "))), "data": f"data:image/png;base64,{data}"}
                )
        return images


def _view(view: View, columns: Sequence[str], images: _ImageBudget) -> dict[str, Any]:
    ranked = best_rows(view, len(view.rows))
    with_curves = ranked[:MAX_CURVES]
    keys, metrics = [*view.keys, *view.dependent_keys], metrics_of(view.runs)
    rows = []
    for row in view.rows:
        entry: dict[str, Any] = {
            "rank": row.rank,
            "label": cut(label(row, view.keys)),
            "place": cut(format_value(row.best.place)),
            "curve": row in with_curves,
            "cells": _cells(view, row, columns),
            "values": _values(row, [*keys, *metrics, *COLUMNS]),
        }
        if row.rank and row.rank <= MAX_PREDICTIONS:
            entry["prediction"] = _prediction(recorded_predictions(row.best))
            entry["images"] = images.select(row.best.read_attention())
        rows.append(entry)
    omitted = f" The best {MAX_CURVES} of {len(ranked)} rows have curves here." if len(ranked) > MAX_CURVES else ""
    repetitions = "Mean and range of the repetitions; a run that stopped early keeps its last value."
    return {
        "title": cut(view.title),
        "metric": cut(view.metric),
        "heads": _heads(view, columns),
        "rows": rows,
        "keys": list(map(cut, view.keys)),
        "names": list(map(cut, names_of(view.runs))),
        "shared": _shared(view, keys),
        "notes": legend(view, columns),
        "curves": _curves(view, with_curves),
        "curveNote": (repetitions if view.repeated else "One line for each run.") + omitted,
        "best": {"score": str(ranked[0].score), "label": cut(label(ranked[0], view.keys))} if ranked else None,
        **_hyperparameters(view, ranked),
    }


def _values(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Return what a filter can test, by name."""
    values = {}
    for name in names:
        value = row.value(name)
        if value is None and is_measure(name):  # of a failed run
            value = measurement(row.best, name)
        if value is not None or name in row.best.config:
            values[cut(name)] = value.mean if isinstance(value, Sample) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    """Return a value of a config as JSON can represent it, texts shortened."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:1000]]
    return value if value is None or isinstance(value, bool) or is_number(value) else cut(format_value(value))


def _shared(view: View, keys: Sequence[str]) -> dict[str, Any]:
    """Return the keys that have the same value in all runs."""
    config = view.rows[0].best.config if view.rows else {}
    return {cut(key): _plain(value) for key, value in list(config.items())[:MAX_SHARED_KEYS] if key not in keys}


def _curves(view: View, rows: Sequence[Row]) -> list[dict[str, Any]]:
    labels = [curve_label(view, row) for row in rows]
    curves = []
    for metrics in metric_groups(view, rows).values():
        records = curve_records(view, rows, metrics)
        scale = curve_scale(metrics[0], view.mode, records)
        curves.append(
            {
                "name": cut(" and ".join(metrics)),
                "first": records[0]["split"] if records else "",
                "spec": charts.specification(charts.learning_curves(metrics[0], labels, scale)),
                "log": scale.logarithmic,
                "records": records,
            }
        )
    return curves


def _hyperparameters(view: View, rows: Sequence[Row]) -> dict[str, Any]:
    if len(rows) < 2 or not view.keys:
        return {"responses": [], "records": []}
    result = importance(view)
    axes = [axis(key, rows) for key in (result.keys if result else view.keys)[:MAX_KEYS]]
    score = score_axis(view, rows)
    several = len(axes) > 1
    return {
        "records": row_records(view, rows, axes),
        "responses": [
            {"key": key.key, "spec": charts.specification(charts.response(score.key, index, key, score.logarithmic))}
            for index, key in enumerate(axes)
        ],
        "importance": _importance(view, result),
        "parallel": charts.specification(charts.parallel_coordinates([*axes, score])) if several else None,
        "heatMap": charts.specification(charts.heat_map(score.key, [key.key for key in axes])) if several else None,
    }


def _importance(view: View, result: Importance | None) -> dict[str, Any] | None:
    if result is None:
        return None
    explained = f"a random forest explains {100 * result.explained:.0f} % of held-out rows"
    note = f"Loss of R² of the rank when a key is shuffled; {explained}, of {format_number(len(view.rows))} rows."
    if not result.is_reliable:
        note = f"These rows are too few to estimate importance: {explained}."
    return {"note": note, "spec": charts.specification(charts.importance_bars(result))}


def _prediction(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    datasets: dict[str, Records]
    if "confusion" in record:
        total = sum(map(sum, record["confusion"]))
        correct = sum(counts[index] for index, counts in enumerate(record["confusion"]))
        note = f"Confusion matrix of the test split: {correct} of {total} correct."
        chart, datasets = charts.confusion_matrix(record["classes"]), {"confusion": confusion_records(record)}
    else:
        note = "Predictions against targets of the test split."
        chart, datasets = charts.predictions(), {"predictions": prediction_records(record)}
    return {"note": note, "spec": charts.specification(chart), "datasets": datasets}


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
        {"name": cut(format_value(name)), "number": numeric, "key": cut(key), "title": cut(format_value(key))}
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
                "text": cut(row.text(column)),
                "value": sortable if is_number(sortable) or value is None else cut(format_value(value)),
            }
        )
    return cells
