"""Charts of a comparison, drawn with matplotlib."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

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
from src.comparison.importance import Importance, importance
from src.comparison.statistics import format_number
from src.comparison.view import Row, View
from src.core.escape import mathtext

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CURVES = 10
"""Rows whose curves are drawn; more could not be distinguished."""
MAX_PREDICTIONS = 4
"""Rows whose predictions are drawn side by side."""
MAX_KEYS = 9
"""Hyperparameters that are curve."""


def figures(view: View) -> "Iterator[tuple[str, Figure]]":
    """Yield the figures of a view, each with its name."""
    rows = best_rows(view, len(view.rows))
    if not rows:
        return
    yield from _curve_figures(view, rows[:MAX_CURVES])
    if len(rows) > 1 and view.keys:
        key_importance = importance(view)
        keys = list(key_importance.keys if key_importance else view.keys)[:MAX_KEYS]
        yield "response", response_figure(view, rows, keys)
        if len(keys) > 1:
            yield "parallel-coordinates", parallel_figure(view, rows, keys)
            yield "heat-map", heat_figure(view, rows, keys[0], keys[1])
        if key_importance:
            yield "importance", importance_figure(key_importance)
    yield from _prediction_figures(view, rows)


# ---- curves ------------------------------------------------------------------------------------------------------


def _curve_figures(view: View, rows: Sequence[Row]) -> "Iterator[tuple[str, Figure]]":
    names = metrics_drawn(view, rows)
    for metric in dict.fromkeys(name.partition("/")[2] for name in names if "/" in name):
        pair = [name for name in (f"val/{metric}", f"train/{metric}") if name in names]
        yield f"curves-{metric}", curve_figure(view, rows, pair)
    if "lr" in names:
        yield "schedules", curve_figure(view, rows, ["lr"])


def curve_figure(view: View, rows: Sequence[Row], names: Sequence[str]) -> "Figure":
    """Draw metrics by epoch: the mean and the range of the repetitions of each row.

    Args:
        view: view of the rows, for their labels.
        rows: rows to draw.
        names: one or two metrics: the first solid, the second dashed.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = _figure(1, (9, 5))
    values = []
    for place, row in enumerate(rows):
        for name, style in zip(names, ("-", "--"), strict=False):
            curve = mean_curve(row.counted, name)
            if curve is None:
                continue
            text = mathtext(f"{row.rank}. {label(row, view.keys)}") if name == names[0] else None
            marker = "." if len(curve.epochs) == 1 else None
            axes.plot(curve.epochs, curve.mean, style, marker=marker, color=f"C{place % 10}", label=text, linewidth=1.5)
            if name == names[0] and len(row.counted) > 1:
                axes.fill_between(curve.epochs, curve.low, curve.high, color=f"C{place % 10}", alpha=0.12, linewidth=0)
            values += [value for value in curve.mean if isfinite(value)]
    if names[0] == "lr":  # a schedule may end at 0, which a logarithmic axis cannot show
        values = [value for value in values if value > 1e-4 * max(values)]
    if names[0].endswith(("lr", "loss", "error")) and needs_log_scale(values):
        _logarithmic(axes, "y")
        axes.set_ylim(bottom=0.8 * min(values))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = mathtext(_axis_label(names[0]))
    axes.set_ylabel(f"{first} (dashed: {mathtext(names[1])})" if len(names) > 1 else first)
    axes.grid(True, alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower left", frameon=False)
    return figure


def _axis_label(name: str) -> str:
    return "learning rate" if name == "lr" else name


# ---- hyperparameters ---------------------------------------------------------------------------------------------


def response_figure(view: View, rows: Sequence[Row], keys: Sequence[str]) -> "Figure":
    """Draw the metric against each hyperparameter: a point for each row, with the standard deviation of its repetitions."""
    columns = min(len(keys), 3)
    figure, panels = _figure(len(keys), (4 * columns + 0.5, 3.2 * -(-len(keys) // columns) + 0.3), columns)
    scores = [row.score for row in rows if row.score]
    means = [score.mean for score in scores]
    errors = [score.deviation or 0.0 for score in scores]
    for axes, key in zip(panels, keys, strict=False):
        key_axis = axis(key, rows)
        axes.errorbar(key_axis.values, means, errors, fmt="o", markersize=4, alpha=0.7, elinewidth=1)
        _format_axis(axes, key_axis)
        if needs_log_scale(means):
            _logarithmic(axes, "y")
        axes.set_ylabel(mathtext(view.metric))
        axes.grid(True, alpha=0.3)
    return figure


def heat_figure(view: View, rows: Sequence[Row], down: str, across: str) -> "Figure":
    """Draw the metric over two hyperparameters: the mean of the rows of each cell, coloured by its rank among the cells."""
    values_of: dict[tuple[int, int], list[float]] = {}
    (row_of, row_names), (column_of, column_names) = (_bins(axis(key, rows)) for key in (down, across))
    for i, j, row in zip(row_of, column_of, rows, strict=True):
        if row.score:
            values_of.setdefault((i, j), []).append(row.score.mean)
    means = {cell: sum(values) / len(values) for cell, values in values_of.items()}
    order = sorted(means, key=lambda cell: means[cell], reverse=view.mode == "min")
    colours = [[float("nan")] * len(column_names) for _ in row_names]
    for place, (i, j) in enumerate(order):
        colours[i][j] = place / max(len(order) - 1, 1)
    figure, (axes,) = _figure(1, (max(4.5, 1.6 + 0.75 * len(column_names)), 1.6 + 0.45 * len(row_names)))
    axes.imshow(colours, cmap="viridis", aspect="auto", vmin=0, vmax=1)
    for (i, j), value in means.items():
        dark = colours[i][j] < 0.55
        axes.text(j, i, format_number(value), ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_xticks(range(len(column_names)), column_names, rotation=30 if len(column_names) > 6 else 0, fontsize=8)
    axes.set_yticks(range(len(row_names)), row_names, fontsize=8)
    axes.set_xlabel(mathtext(across))
    axes.set_ylabel(mathtext(down))
    axes.set_title(f"{mathtext(view.metric)}: mean of a cell, yellow is best", fontsize=9)
    return figure


def _bins(key_axis: Axis) -> tuple[list[int], list[str]]:
    """Return the cell of each value and the names of the cells: at most twelve single values, else eight ranges."""
    import numpy as np

    if key_axis.names:
        return [int(value) for value in key_axis.values], [mathtext(name) for name in key_axis.names]
    unique = sorted(set(key_axis.values))
    if len(unique) <= 12:
        return [unique.index(value) for value in key_axis.values], [f"{value:g}" for value in unique]
    space = np.geomspace if key_axis.logarithmic else np.linspace
    edges = space(unique[0], unique[-1], 9)
    cells = np.clip(np.searchsorted(edges, key_axis.values, side="right") - 1, 0, 7)
    return cells.tolist(), [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]


def parallel_figure(view: View, rows: Sequence[Row], keys: Sequence[str]) -> "Figure":
    """Draw a line for each row over all hyperparameters and the metric, coloured by rank."""
    import numpy as np
    from matplotlib import colormaps

    means = tuple(row.score.mean for row in rows if row.score)
    all_axes = [*(axis(key, rows) for key in keys), Axis(view.metric, means, (), needs_log_scale(means))]
    figure, (axes,) = _figure(1, (max(6, 2.1 * len(all_axes)), 4.5))
    heights = []
    for key_axis in all_axes:
        values = np.log10(key_axis.values) if key_axis.logarithmic else np.asarray(key_axis.values)
        low, high = float(values.min()), float(values.max())
        heights.append((values - low) / (high - low) if high > low else np.full(len(rows), 0.5))
    for place in reversed(range(len(rows))):  # draw the best last, on top
        quality = 1 - place / max(len(rows) - 1, 1)
        axes.plot([h[place] for h in heights], color=colormaps["Blues"](0.35 + 0.6 * quality), linewidth=1.2)
    for place, (key_axis, height) in enumerate(zip(all_axes, heights, strict=True)):
        axes.axvline(place, color="0.4", linewidth=1)
        ticks = sorted(set(zip(height.tolist(), key_axis.values, strict=True)))
        ticks = ticks if len(ticks) <= 8 else [ticks[i * (len(ticks) - 1) // 5] for i in range(6)]
        for at, value in ticks:
            text = key_axis.names[int(value)] if key_axis.names else f"{value:.3g}"
            axes.text(
                place + 0.02,
                at + 0.012,
                mathtext(text),
                fontsize=8,
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6},
            )
    axes.set_xticks(range(len(all_axes)), [mathtext(key_axis.key) for key_axis in all_axes], fontsize=8)
    axes.set_xlim(-0.1, len(all_axes) - 0.75)
    axes.set_yticks([])
    axes.set_frame_on(False)
    axes.set_title("one line for each row; darker is better", fontsize=9)
    return figure


def importance_figure(importance: Importance) -> "Figure":
    """Draw the importance of each hyperparameter, with its standard deviation over folds."""
    figure, (axes,) = _figure(1, (7, 1.3 + 0.35 * len(importance.keys)))
    places = range(len(importance.keys))[::-1]
    axes.barh(places, importance.loss, xerr=importance.deviation, height=0.6, color="C0", ecolor="0.3", capsize=2)
    axes.set_yticks(places, [mathtext(key) for key in importance.keys], fontsize=8)
    axes.set_xlabel("R² of the rank lost when the key is shuffled")
    note = "" if importance.is_reliable else "; too little to estimate importance"
    axes.set_title(f"a random forest explains {100 * importance.explained:.0f} % of held-out rows{note}", fontsize=9)
    axes.grid(True, axis="x", alpha=0.3)
    return figure


# ---- predictions -------------------------------------------------------------------------------------------------


def _prediction_figures(view: View, rows: Sequence[Row]) -> "Iterator[tuple[str, Figure]]":
    pairs = [(row, record) for row in rows if (record := recorded_predictions(row.best))][:MAX_PREDICTIONS]
    kinds: tuple[tuple[str, str, Callable[[Axes, Any], None]], ...] = (
        ("confusion", "confusion", _draw_confusion),
        ("predictions", "true", _draw_predictions),
    )
    for name, key, draw in kinds:
        chosen = [(row, record) for row, record in pairs if key in record]
        if not chosen:
            continue
        side = max(4.2, *(0.38 * len(record.get("classes", ())) + 1.2 for _, record in chosen))
        figure, panels = _figure(len(chosen), (side * len(chosen), side), len(chosen))
        for axes, (row, record) in zip(panels, chosen, strict=True):
            draw(axes, record)
            title = fill(f"{row.rank}. {label(row, view.keys)}"[:400], round(11 * side))
            axes.set_title(mathtext(title, 500), fontsize=8)
        yield name, figure


def _draw_confusion(axes: "Axes", record: Any) -> None:
    counts, names = record["confusion"], record["classes"]
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 25:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if shares[i][j] > 0.6 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=7)
    step = -(-len(names) // 25)
    axes.set_xticks(range(0, len(names), step), [mathtext(n) for n in names[::step]], rotation=90, fontsize=7)
    axes.set_yticks(range(0, len(names), step), [mathtext(n) for n in names[::step]], fontsize=7)
    axes.set_xlabel("predicted class of the test split")
    axes.set_ylabel("true class")


def _draw_predictions(axes: "Axes", record: Any) -> None:
    true, predicted = ([value for row in record[key] for value in row] for key in ("true", "predicted"))
    axes.plot(true, predicted, ".", alpha=0.6)
    limits = min(true + predicted), max(true + predicted)
    axes.plot(limits, limits, "--", color="0.4", linewidth=1)
    axes.set_xlabel("target of the test split")
    axes.set_ylabel("prediction")
    axes.grid(True, alpha=0.3)


# ---- matplotlib --------------------------------------------------------------------------------------------------


def _figure(panels: int, size: tuple[float, float], columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(-(-panels // columns), columns, squeeze=False)
    all_axes = list(grid.flat)
    for empty in all_axes[panels:]:
        empty.set_axis_off()
    return figure, all_axes[:panels]


def _format_axis(axes: "Axes", key_axis: Axis) -> None:
    axes.set_xlabel(mathtext(key_axis.key))
    if key_axis.names:
        axes.set_xticks(range(len(key_axis.names)), [mathtext(name) for name in key_axis.names], fontsize=8)
        if sum(map(len, key_axis.names)) > 30:
            axes.tick_params(axis="x", rotation=30)
    elif key_axis.logarithmic:
        _logarithmic(axes, "x")


def _logarithmic(axes: "Axes", side: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    getattr(axes, f"set_{side}scale")("log")
    key_axis = getattr(axes, f"{side}axis")
    low, high = key_axis.get_view_interval()
    key_axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    key_axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    key_axis.set_minor_formatter(NullFormatter())


def save_figures(folder: Path, views: "Sequence[View]") -> Path:
    """Write every figure of some views as PNG, and return their folder, plots/.

    Args:
        folder: compared folder.
        views: views of its runs; with several, file names begin with the data set and the metric.
    """
    from src.run_store.plots import save_figure

    for view in views:
        data = view.runs[0].config.get("datamodule.name", "runs")
        prefix = re.sub(r"[^\w.-]", "-", f"{data}-{view.metric}-")[:100] if len(views) > 1 else ""
        for name, figure in figures(view):
            save_figure(folder, prefix + re.sub(r"[^\w.-]", "-", name)[:100], figure)
    return folder / "plots"
