"""Charts of a comparison, drawn with matplotlib."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from src.comparison.chart_data import Axis, answers, axis, band, best_rows, far_apart, label, metrics_drawn
from src.comparison.importance import Importance, importance
from src.comparison.statistics import number
from src.comparison.view import Row, View
from src.core.escape import mathtext

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = 10
"""Rows whose curves are drawn; more cannot be told apart."""
ANSWERS = 4
"""Rows whose answers are drawn side by side."""
KEYS = 9
"""Hyperparameters that are drawn."""


def pictures(view: View) -> "Iterator[tuple[str, Figure]]":
    """Yield every picture that the runs of a view can give, with its name.

    Args:
        view: of the runs.
    """
    rows = best_rows(view, len(view.rows))
    if not rows:
        return
    yield from _curve_pictures(view, rows[:CURVES])
    if len(rows) > 1 and view.keys:
        matters = importance(view)
        keys = list(matters.keys if matters else view.keys)[:KEYS]
        yield "response", response_figure(view, rows, keys)
        if len(keys) > 1:
            yield "parallel-coordinates", parallel_figure(view, rows, keys)
            yield "heat-map", heat_figure(view, rows, keys[0], keys[1])
        if matters:
            yield "importance", importance_figure(matters)
    yield from _answer_pictures(view, rows)


# ---- curves ------------------------------------------------------------------------------------------------------


def _curve_pictures(view: View, rows: Sequence[Row]) -> "Iterator[tuple[str, Figure]]":
    names = metrics_drawn(view, rows)
    measured = list(dict.fromkeys(name.partition("/")[2] for name in names if "/" in name))
    for metric in measured:
        pair = [name for name in (f"val/{metric}", f"train/{metric}") if name in names]
        yield f"curves-{metric}", curve_figure(view, rows, pair)
    if "lr" in names:
        yield "schedules", curve_figure(view, rows, ["lr"])


def curve_figure(view: View, rows: Sequence[Row], names: Sequence[str]) -> "Figure":
    """Draw metrics over the epochs: of each row the mean of its repetitions and the range that they span.

    Args:
        view: says what tells rows apart.
        rows: to draw.
        names: of the metrics: the first solid, the second dashed.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = _figure(1, (9, 5))
    values = []
    for place, row in enumerate(rows):
        for name, style in zip(names, ("-", "--"), strict=False):
            drawn = band(row.counted, name)
            if drawn is None:
                continue
            text = mathtext(f"{row.rank}. {label(row, view.keys)}") if name == names[0] else None
            mark = "." if len(drawn.epochs) == 1 else None
            axes.plot(drawn.epochs, drawn.mean, style, marker=mark, color=f"C{place % 10}", label=text, linewidth=1.5)
            if name == names[0] and len(row.counted) > 1:
                axes.fill_between(drawn.epochs, drawn.low, drawn.high, color=f"C{place % 10}", alpha=0.12, linewidth=0)
            values += [value for value in drawn.mean if isfinite(value)]
    if names[0] == "lr":  # a schedule may end at 0, where a logarithmic axis begins at what lies above
        values = [value for value in values if value > 1e-4 * max(values)]
    if names[0].endswith(("lr", "loss", "error")) and far_apart(values):
        _logarithmic(axes, "y")
        axes.set_ylim(bottom=0.8 * min(values))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = mathtext(_named(names[0]))
    axes.set_ylabel(f"{first} (dashed: {mathtext(names[1])})" if len(names) > 1 else first)
    axes.grid(True, alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower left", frameon=False)
    return figure


def _named(name: str) -> str:
    return "learning rate" if name == "lr" else name


# ---- hyperparameters ---------------------------------------------------------------------------------------------


def response_figure(view: View, rows: Sequence[Row], keys: Sequence[str]) -> "Figure":
    """Draw the metric against each hyperparameter, a point a row with the deviation of its repetitions."""
    columns = min(len(keys), 3)
    figure, panels = _figure(len(keys), (4 * columns + 0.5, 3.2 * -(-len(keys) // columns) + 0.3), columns)
    scores = [row.score for row in rows if row.score]
    means = [score.mean for score in scores]
    errors = [score.deviation or 0.0 for score in scores]
    for axes, key in zip(panels, keys, strict=False):
        along = axis(key, rows)
        axes.errorbar(along.values, means, errors, fmt="o", markersize=4, alpha=0.7, elinewidth=1)
        _dress(axes, along)
        if far_apart(means):
            _logarithmic(axes, "y")
        axes.set_ylabel(mathtext(view.metric))
        axes.grid(True, alpha=0.3)
    return figure


def heat_figure(view: View, rows: Sequence[Row], down: str, across: str) -> "Figure":
    """Draw the metric over two hyperparameters: the mean of the rows of each cell, coloured by its place among the cells."""
    places: dict[tuple[int, int], list[float]] = {}
    (row_of, row_names), (column_of, column_names) = (_bins(axis(key, rows)) for key in (down, across))
    for i, j, row in zip(row_of, column_of, rows, strict=True):
        if row.score:
            places.setdefault((i, j), []).append(row.score.mean)
    means = {cell: sum(values) / len(values) for cell, values in places.items()}
    order = sorted(means, key=lambda cell: means[cell], reverse=view.mode == "min")
    colours = [[float("nan")] * len(column_names) for _ in row_names]
    for place, (i, j) in enumerate(order):
        colours[i][j] = place / max(len(order) - 1, 1)
    figure, (axes,) = _figure(1, (max(4.5, 1.6 + 0.75 * len(column_names)), 1.6 + 0.45 * len(row_names)))
    axes.imshow(colours, cmap="viridis", aspect="auto", vmin=0, vmax=1)
    for (i, j), value in means.items():
        dark = colours[i][j] < 0.55
        axes.text(j, i, number(value), ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_xticks(range(len(column_names)), column_names, rotation=30 if len(column_names) > 6 else 0, fontsize=8)
    axes.set_yticks(range(len(row_names)), row_names, fontsize=8)
    axes.set_xlabel(mathtext(across))
    axes.set_ylabel(mathtext(down))
    axes.set_title(f"{mathtext(view.metric)}: mean of a cell, yellow is best", fontsize=9)
    return figure


def _bins(along: Axis) -> tuple[list[int], list[str]]:
    """Return the cell of each value and the names of the cells: single values where there are few, else eight ranges."""
    import numpy as np

    if along.names:
        return [int(value) for value in along.values], [mathtext(name) for name in along.names]
    unique = sorted(set(along.values))
    if len(unique) <= 12:
        return [unique.index(value) for value in along.values], [f"{value:g}" for value in unique]
    space = np.geomspace if along.logarithmic else np.linspace
    edges = space(unique[0], unique[-1], 9)
    cells = np.clip(np.searchsorted(edges, along.values, side="right") - 1, 0, 7)
    return cells.tolist(), [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]


def parallel_figure(view: View, rows: Sequence[Row], keys: Sequence[str]) -> "Figure":
    """Draw a line a row over all hyperparameters and the metric, coloured by rank."""
    import numpy as np
    from matplotlib import colormaps

    means = tuple(row.score.mean for row in rows if row.score)
    alongs = [*(axis(key, rows) for key in keys), Axis(view.metric, means, (), far_apart(means))]
    figure, (axes,) = _figure(1, (max(6, 2.1 * len(alongs)), 4.5))
    heights = []
    for along in alongs:
        values = np.log10(along.values) if along.logarithmic else np.asarray(along.values)
        low, high = float(values.min()), float(values.max())
        heights.append((values - low) / (high - low) if high > low else np.full(len(rows), 0.5))
    for place in reversed(range(len(rows))):  # the best on top
        good = 1 - place / max(len(rows) - 1, 1)
        axes.plot([h[place] for h in heights], color=colormaps["Blues"](0.35 + 0.6 * good), linewidth=1.2)
    for place, (along, height) in enumerate(zip(alongs, heights, strict=True)):
        axes.axvline(place, color="0.4", linewidth=1)
        ticks = sorted(set(zip(height.tolist(), along.values, strict=True)))
        ticks = ticks if len(ticks) <= 8 else [ticks[i * (len(ticks) - 1) // 5] for i in range(6)]
        for at, value in ticks:
            text = along.names[int(value)] if along.names else f"{value:.3g}"
            axes.text(
                place + 0.02,
                at + 0.012,
                mathtext(text),
                fontsize=8,
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6},
            )
    axes.set_xticks(range(len(alongs)), [mathtext(along.key) for along in alongs], fontsize=8)
    axes.set_xlim(-0.1, len(alongs) - 0.75)
    axes.set_yticks([])
    axes.set_frame_on(False)
    axes.set_title("a line a row; the darker, the better its rank", fontsize=9)
    return figure


def importance_figure(found: Importance) -> "Figure":
    """Draw how much each hyperparameter matters, with the deviation over folds."""
    figure, (axes,) = _figure(1, (7, 1.3 + 0.35 * len(found.keys)))
    places = range(len(found.keys))[::-1]
    axes.barh(places, found.loss, xerr=found.deviation, height=0.6, color="C0", ecolor="0.3", capsize=2)
    axes.set_yticks(places, [mathtext(key) for key in found.keys], fontsize=8)
    axes.set_xlabel("R² of the rank lost when the key is shuffled")
    said = "" if found.tells else "; too little to tell what matters"
    axes.set_title(f"a forest explains {100 * found.explained:.0f} % of rows that it has not seen{said}", fontsize=9)
    axes.grid(True, axis="x", alpha=0.3)
    return figure


# ---- answers -----------------------------------------------------------------------------------------------------


def _answer_pictures(view: View, rows: Sequence[Row]) -> "Iterator[tuple[str, Figure]]":
    found = [(row, given) for row in rows if (given := answers(row.best))][:ANSWERS]
    kinds: tuple[tuple[str, str, Callable[[Axes, Any], None]], ...] = (
        ("confusion", "confusion", _draw_confusion),
        ("predictions", "true", _draw_predictions),
    )
    for name, key, draw in kinds:
        some = [(row, given) for row, given in found if key in given]
        if not some:
            continue
        side = max(4.2, *(0.38 * len(given.get("classes", ())) + 1.2 for _, given in some))
        figure, panels = _figure(len(some), (side * len(some), side), len(some))
        for axes, (row, given) in zip(panels, some, strict=True):
            draw(axes, given)
            title = fill(f"{row.rank}. {label(row, view.keys)}"[:400], round(11 * side))
            axes.set_title(mathtext(title, 500), fontsize=8)
        yield name, figure


def _draw_confusion(axes: "Axes", given: Any) -> None:
    counts, names = given["confusion"], given["classes"]
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 25:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if shares[i][j] > 0.6 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=7)
    every = -(-len(names) // 25)
    axes.set_xticks(range(0, len(names), every), [mathtext(n) for n in names[::every]], rotation=90, fontsize=7)
    axes.set_yticks(range(0, len(names), every), [mathtext(n) for n in names[::every]], fontsize=7)
    axes.set_xlabel("predicted class of the test split")
    axes.set_ylabel("true class")


def _draw_predictions(axes: "Axes", given: Any) -> None:
    true, predicted = ([value for row in given[key] for value in row] for key in ("true", "predicted"))
    axes.plot(true, predicted, ".", alpha=0.6)
    ends = min(true + predicted), max(true + predicted)
    axes.plot(ends, ends, "--", color="0.4", linewidth=1)
    axes.set_xlabel("truth of the test split")
    axes.set_ylabel("prediction")
    axes.grid(True, alpha=0.3)


# ---- matplotlib --------------------------------------------------------------------------------------------------


def _figure(panels: int, size: tuple[float, float], columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(-(-panels // columns), columns, squeeze=False)
    found = list(grid.flat)
    for empty in found[panels:]:
        empty.set_axis_off()
    return figure, found[:panels]


def _dress(axes: "Axes", along: Axis) -> None:
    axes.set_xlabel(mathtext(along.key))
    if along.names:
        axes.set_xticks(range(len(along.names)), [mathtext(name) for name in along.names], fontsize=8)
        if sum(map(len, along.names)) > 30:
            axes.tick_params(axis="x", rotation=30)
    elif along.logarithmic:
        _logarithmic(axes, "x")


def _logarithmic(axes: "Axes", side: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    getattr(axes, f"set_{side}scale")("log")
    along = getattr(axes, f"{side}axis")
    low, high = along.get_view_interval()
    along.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    along.set_major_formatter(StrMethodFormatter("{x:g}"))
    along.set_minor_formatter(NullFormatter())


def save_pictures(folder: Path, views: "Sequence[View]") -> Path:
    """Write every picture of some views as PNG, and return the folder that has them, plots/.

    Args:
        folder: that is compared.
        views: of its runs; with several, the names of the pictures begin with the data set and the metric.
    """
    from src.comparison.charts import pictures
    from src.run_store.plots import save_picture

    for view in views:
        data = view.runs[0].config.get("datamodule.name", "runs")
        prefix = re.sub(r"[^\w.-]", "-", f"{data}-{view.metric}-")[:100] if len(views) > 1 else ""
        for name, figure in pictures(view):
            save_picture(folder, prefix + re.sub(r"[^\w.-]", "-", name)[:100], figure)
    return folder / "plots"
