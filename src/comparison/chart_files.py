"""PNG and SVG files of the charts of a comparison."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.comparison import charts
from src.comparison.chart_data import (
    axis,
    best_rows,
    confusion_records,
    curve_label,
    curve_records,
    curve_scale,
    metric_groups,
    prediction_records,
    recorded_predictions,
    row_records,
    score_axis,
)
from src.comparison.importance import importance
from src.comparison.view import Row, View
from src.core.files import write_below
from src.run_store.config_file import to_plain

MAX_CURVES = 10
"""Rows whose curves are drawn; more could not be distinguished."""
MAX_PREDICTIONS = 4
"""Rows whose predictions are drawn."""
MAX_KEYS = 9
"""Hyperparameters that are drawn, the most important first."""

Specification = dict[str, Any]


def specifications(view: View) -> Iterator[tuple[str, Specification]]:
    """Yield the name and the Vega-Lite specification of each chart of a view."""
    rows = best_rows(view, len(view.rows))
    if not rows:
        return
    yield from _curves(view, rows[:MAX_CURVES])
    if len(rows) > 1 and view.keys:
        yield from _hyperparameters(view, rows)
    for row in [row for row in rows if recorded_predictions(row.best)][:MAX_PREDICTIONS]:
        yield _predictions(view, row)


def _curves(view: View, rows: Sequence[Row]) -> Iterator[tuple[str, Specification]]:
    labels = [curve_label(view, row) for row in rows]
    for name, metrics in metric_groups(view, rows).items():
        records = curve_records(view, rows, metrics)
        chart = charts.learning_curves(
            metrics[0], labels, curve_scale(metrics[0], view.mode, records), interactive=False
        )
        yield "schedules" if name == "lr" else f"curves-{name}", charts.with_data(chart, {"curves": records})


def _hyperparameters(view: View, rows: Sequence[Row]) -> Iterator[tuple[str, Specification]]:
    result = importance(view)
    axes = [axis(key, rows) for key in (result.keys if result else view.keys)[:MAX_KEYS]]
    score = score_axis(view, rows)
    datasets = {"rows": row_records(view, rows, axes)}
    responses = [charts.response(view.metric, i, key, score.logarithmic) for i, key in enumerate(axes)]
    yield "response", charts.with_data(charts.side_by_side(responses), datasets)
    if len(axes) > 1:
        yield "parallel-coordinates", charts.with_data(charts.parallel_coordinates([*axes, score]), datasets)
        yield "heat-map", charts.with_data(charts.heat_map(view.metric, [key.key for key in axes]), datasets)
    if result:
        yield "importance", charts.with_data(charts.importance_bars(result), {})


def _predictions(view: View, row: Row) -> tuple[str, Specification]:
    record = recorded_predictions(row.best)
    assert record is not None
    if "confusion" in record:
        chart, datasets = charts.confusion_matrix(record["classes"]), {"confusion": confusion_records(record)}
        return f"confusion-{row.rank}", charts.with_data(chart, datasets)
    return f"predictions-{row.rank}", charts.with_data(
        charts.predictions(), {"predictions": prediction_records(record)}
    )


def save_charts(folder: Path, views: Sequence[View]) -> Path:
    """Write every chart of some views as PNG and SVG, and return their folder, plots/.

    Args:
        folder: compared folder.
        views: views of its runs; with several, file names begin with the data set and the metric.
    """
    import vl_convert

    for view in views:
        data = view.runs[0].config.get("datamodule.name", "runs")
        prefix = f"{data}-{view.metric}-" if len(views) > 1 else ""
        for name, specification in specifications(view):
            file_name = re.sub(r"[^\w.-]", "-", prefix)[:100] + re.sub(r"[^\w.-]", "-", name)[:100]
            text = json.dumps(to_plain(specification), allow_nan=False)
            svg = vl_convert.vegalite_to_svg(text, allowed_base_urls=[])
            png = vl_convert.svg_to_png(svg, scale=2)
            folder.mkdir(parents=True, exist_ok=True)
            write_below(folder, Path("plots", f"{file_name}.png"), png, make=True)
            write_below(folder, Path("plots", f"{file_name}.svg"), svg, make=True)
    return folder / "plots"
