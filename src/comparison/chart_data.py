"""Data of the charts of a comparison: mean curves of repeated runs, axes of hyperparameters, predictions.

The functions whose names end in ``_records`` return the data sets that `src.comparison.charts` draws, as lists of JSON objects.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, log10, nan
from typing import Any

from src.comparison.config_keys import MISSING, format_value, short_names
from src.comparison.statistics import format_number
from src.comparison.view import Row, View
from src.core.escape import line
from src.run_store.recorded_run import Curve, RecordedRun, is_log_scaled, is_number

log = logging.getLogger(__name__)

KEY_LOG_RATIO = 20.0
"""Ratio of the largest to the smallest value from which the axis of a hyperparameter is logarithmic; that of a learning rate
always is."""
METRIC_LOG_RATIO = 5.0
"""The same ratio for a metric."""
MAX_NAMES = 20
"""Names on the axis of a hyperparameter; the rarer ones are drawn as one, `OTHERS`."""
OTHERS = "(others)"
MAX_CURVE_CHARTS = 30
"""Charts of curves, one for each metric."""
MAX_POINTS = 200
"""Points of a curve; longer curves are sampled at equal distances, and include the last point."""
MAX_CLASSES = 200
MAX_NUMBERS = 10_000
"""Largest numbers of classes and of predicted numbers in a chart; `src.callbacks.predictions` writes fewer."""
MAX_CHARACTERS = 500
"""Largest number of characters of a name or a value of a config."""

Records = list[dict[str, Any]]


def cut(text: str) -> str:
    """Return a text, shortened to `MAX_CHARACTERS`."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def chart_text(text: object) -> str:
    """Return a name of a run, key, class or metric as text that a chart can draw: one line without control characters."""
    return line(cut(str(text)))


def drawable(value: float) -> float | None:
    """Return a number for a chart, with the digits that a screen can show.

    None for a number that is not finite, or so large that the differences on an axis would overflow.
    """
    if not abs(value) < 1e150:
        return None
    return float(f"{value:.4g}") if abs(value) > 1e-150 else 0.0


@dataclass(frozen=True)
class MeanCurve:
    """Curve of several runs: the mean, lowest and highest value of each epoch. A run that stopped before the others counts
    with its last value, as otherwise the mean would jump where it stops.

    Args:
        epochs, mean, low, high: [n].
    """

    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def mean_curve(runs: Iterable[RecordedRun], metric: str) -> MeanCurve | None:
    """Return the curve of a metric over the repetitions of one config; None if none of them has the metric."""
    curves = [curve for run in runs if (curve := run.curves.get(metric)) and len(curve.epochs)]
    if not curves:
        return None
    if len(curves) == 1:
        return MeanCurve(curves[0].epochs, curves[0].values, curves[0].values, curves[0].values)
    epochs = sorted({epoch for curve in curves for epoch in curve.epochs})
    by_epoch = zip(*(_values_at(curve, epochs) for curve in curves), strict=True)
    points = [[value for value in values if isfinite(value)] or [nan] for values in by_epoch]
    return MeanCurve(epochs, [sum(p) / len(p) for p in points], list(map(min, points)), list(map(max, points)))


def _values_at(curve: Curve, epochs: Sequence[int]) -> list[float]:
    """Return the value of a curve in each epoch: the last one before if it has none there, NaN before its first."""
    value_of = dict(zip(*curve, strict=True))
    values, last = [], nan
    for epoch in epochs:
        last = value_of.get(epoch, last)
        values.append(last)
    return values


def metrics_drawn(view: View, rows: Sequence[Row]) -> list[str]:
    """Return the metrics that have curves: the metric of the view first, ``lr`` last."""
    names = dict.fromkeys(name for row in rows for run in row.counted for name in run.curves)
    return sorted(names, key=lambda name: (name != view.metric, name == "lr", _split_last(name)))


def metric_groups(view: View, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the metrics that have curves by the name under which they are drawn: validation and training together.

    There are at most `MAX_CURVE_CHARTS` names; a warning names the number of those that are left out.
    """
    groups: dict[str, list[str]] = {}
    for name in metrics_drawn(view, rows):
        split, _, metric = name.partition("/")
        groups.setdefault(metric if split in ("val", "train") else name, []).append(name)
    if len(groups) > MAX_CURVE_CHARTS:
        log.warning("%d metrics have curves; the first %d are drawn", len(groups), MAX_CURVE_CHARTS)
    return dict(list(groups.items())[:MAX_CURVE_CHARTS])


def _split_last(name: str) -> tuple[str, bool]:
    split, _, metric = name.partition("/")
    return metric, split == "train"


@dataclass(frozen=True)
class Axis:
    """Values of one hyperparameter.

    Args:
        key: key of the config.
        values: one value for each row: a number, or an index into `names`.
        names: names of values that are no numbers; empty for numbers.
        logarithmic: whether the axis is logarithmic.
    """

    key: str
    values: tuple[float, ...]
    names: tuple[str, ...] = ()
    logarithmic: bool = False

    def labels(self) -> list[str]:
        """Return each value as text."""
        return [self.names[int(value)] if self.names else format_number(value) for value in self.values]

    def heights(self) -> list[float]:
        """Return the position of each value between the smallest, 0, and the largest, 1."""
        values = [
            log10(value) if self.logarithmic else value / 4 for value in self.values
        ]  # differences do not overflow
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.5 for value in values]

    def cells(self) -> tuple[list[int], list[str]]:
        """Return the cell of each value and the names of the cells: at most twelve single values, else eight ranges."""
        if self.names:
            return [int(value) for value in self.values], list(self.names)
        unique = sorted(set(self.values))
        if len(unique) <= 12:
            return [unique.index(value) for value in self.values], [format_number(value) for value in unique]
        low, high = unique[0], unique[-1]
        if self.logarithmic:
            edges = [low ** (1 - i / 8) * high ** (i / 8) for i in range(9)]
        else:
            edges = [low * (1 - i / 8) + high * i / 8 for i in range(9)]
        cells = [min(int(8 * height), 7) for height in self.heights()]
        return cells, [f"{a:.2g} to {b:.2g}" for a, b in pairwise(edges)]


def axis(key: str, rows: Sequence[Row]) -> Axis:
    """Return the axis of a key over some rows; `MISSING` is the value of runs without the key."""
    values = [row.best.config.get(key, MISSING) for row in rows]
    if values and all(is_number(value) for value in values):
        numbers = tuple(float(value) for value in values)
        lowest, highest = min(numbers), max(numbers)
        return Axis(
            chart_text(key), numbers, (), lowest > 0 and (is_log_scaled(key) or highest / lowest >= KEY_LOG_RATIO)
        )
    texts = [chart_text(format_value(value)) for value in values]
    frequent = {text for text, _ in Counter(texts).most_common(MAX_NAMES)}
    texts = [text if text in frequent else OTHERS for text in texts]
    names = sorted(set(texts), key=_order)
    return Axis(chart_text(key), tuple(float(names.index(text)) for text in texts), tuple(names))


def _order(text: str) -> tuple[bool, float, str]:
    """Sort numbers by value, before other texts."""
    with suppress(ValueError):
        return False, float(text), text
    return True, 0.0, text


def needs_log_scale(values: Sequence[float]) -> bool:
    """Return whether the values of a metric differ so much that they need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > METRIC_LOG_RATIO


def best_rows(view: View, limit: int) -> list[Row]:
    """Return at most `limit` rows with a rank, best first."""
    return sorted((row for row in view.rows if row.rank), key=lambda row: row.rank or 0)[:limit]


def label(row: Row, keys: Sequence[str]) -> str:
    """Return the values that distinguish a row from the others, such as ``lr=0.01 model=mlp``."""
    parts = [f"{name}={row.text(key)}" for name, key in zip(short_names(keys), keys, strict=True)]
    return " ".join(parts) or row.best.name


def row_records(view: View, rows: Sequence[Row], axes: Sequence[Axis]) -> Records:
    """Return the data set ``rows``: for each row its score and its values on the axes.

    Args:
        view: the view.
        rows: rows with a rank, of which `axes` are the axes.
        axes: axes of hyperparameters.
    """
    sign = -1 if view.mode == "min" else 1
    index_of = {id(row): index for index, row in enumerate(view.rows)}
    scores = score_axis(view, rows)
    lowest = min(scores.values) / 2 if scores.logarithmic else -inf  # a logarithmic axis has no room for 0 and below
    heights = [axis.heights() for axis in (*axes, scores)]
    labels = [axis.labels() for axis in axes]
    cells = [axis.cells() for axis in axes]
    records: Records = []
    for place, row in enumerate(rows):
        if row.score is None or row.rank is None or (score := drawable(row.score.mean)) is None:
            continue
        deviation = drawable(row.score.deviation or 0.0) or 0.0
        record: dict[str, Any] = {
            "row": index_of[id(row)],
            "rank": row.rank,
            "score": score,
            "low": max(score - deviation, lowest),
            "high": score + deviation,
            "worth": sign * score,
            "quality": 1 - (row.rank - 1) / max(len(rows) - 1, 1),
            "text": chart_text(f"{row.rank}. {label(row, view.keys)}: {view.metric} {row.score}"),
        }
        for index, axis in enumerate(axes):
            record[f"value{index}"] = labels[index][place] if axis.names else drawable(axis.values[place])
            cell, names = cells[index]
            record[f"place{index}"] = cell[place]
            record[f"cell{index}"] = names[cell[place]]
        for index, positions in enumerate(heights):
            record[f"height{index}"] = round(positions[place], 4)
        records.append(record)
    return records


def score_axis(view: View, rows: Sequence[Row]) -> Axis:
    """Return the axis of the metric."""
    means = tuple(row.score.mean for row in rows if row.score)
    return Axis(chart_text(view.metric), means, (), needs_log_scale(means))


def curve_records(view: View, rows: Sequence[Row], names: Sequence[str]) -> Records:
    """Return the data set ``curves``: lists of epochs, means and, of repetitions, lowest and highest values.

    Args:
        view: the view.
        rows: rows whose curves are drawn.
        names: names of the metrics: one, or the same one of validation and training.
    """
    index_of = {id(row): index for index, row in enumerate(view.rows)}
    records: Records = []
    for row in rows:
        for name in names:
            curve = mean_curve(row.counted, name)
            if curve is None:
                continue
            last = len(curve.epochs) - 1
            step = -(-len(curve.epochs) // MAX_POINTS)
            points = sorted({*range(0, last + 1, step), last})
            repeated = len(row.counted) > 1
            record = {
                "row": index_of[id(row)],
                "label": curve_label(view, row),
                "split": name.partition("/")[0] if "/" in name else "",
                "epoch": [curve.epochs[i] for i in points],
                "mean": [drawable(curve.mean[i]) for i in points],
                "low": [drawable(curve.low[i]) for i in points] if repeated else [],
                "high": [drawable(curve.high[i]) for i in points] if repeated else [],
            }
            records.append(record)
    return records


@dataclass(frozen=True)
class CurveScale:
    """Axis of the metric of learning curves.

    Args:
        logarithmic: whether it is logarithmic.
        lowest, highest: its ends; None for the smallest or largest value.
    """

    logarithmic: bool = False
    lowest: float | None = None
    highest: float | None = None


def curve_scale(metric: str, mode: str, records: Records) -> CurveScale:
    """Return the axis on which no curve hides the others.

    A schedule may end at 0, which a logarithmic axis cannot show, and a diverged run must not flatten the others.

    Args:
        metric: name of the metric.
        mode: direction of the metric of the comparison, ``min`` or ``max``.
        records: the data set ``curves``.
    """
    values = sorted(value for record in records for value in record["mean"] if value is not None)
    if metric == "lr":
        values = [value for value in values if value > 1e-4 * values[-1]]
    if metric.endswith(("lr", "loss", "error")) and needs_log_scale(values):
        return CurveScale(logarithmic=True, lowest=values[0])
    if mode == "min" and values:
        lowest, highest, usual = values[0], values[-1], values[int(0.95 * (len(values) - 1))]
        if usual > lowest and highest - lowest > 6 * (usual - lowest):
            return CurveScale(highest=usual + 0.1 * (usual - lowest))
    return CurveScale()


def curve_label(view: View, row: Row) -> str:
    """Return the name of a row in the legend of curves."""
    return chart_text(f"{row.rank}. {label(row, view.keys)}")


def confusion_records(record: Mapping[str, Any]) -> Records:
    """Return the data set ``confusion`` of predictions that `recorded_predictions` returned."""
    return [{"true": index, "count": counts} for index, counts in enumerate(record["confusion"])]


def prediction_records(record: Mapping[str, Any]) -> Records:
    """Return the data set ``predictions`` of predictions that `recorded_predictions` returned."""
    pairs = zip(record["true"], record["predicted"], strict=True)
    return [
        {"true": list(map(drawable, true)), "predicted": list(map(drawable, predicted))} for true, predicted in pairs
    ]


def recorded_predictions(run: RecordedRun) -> Mapping[str, Any] | None:
    """Return the predictions of a run on its test split, as `src.callbacks.predictions` wrote them: ``classes`` and
    ``confusion``, or ``true`` and ``predicted`` numbers; None if there are none, or if they are damaged.
    """
    record = run.load_predictions()
    if not isinstance(record, dict):
        return None
    names, counts = record.get("classes"), record.get("confusion")
    if isinstance(names, list) and 0 < len(names) <= MAX_CLASSES and _is_matrix(counts, len(names), len(names)):
        return {"classes": [format_value(name) for name in names], "confusion": counts}
    true, predicted = record.get("true"), record.get("predicted")
    if not (isinstance(true, list) and true and isinstance(true[0], list)):
        return None
    width = len(true[0])
    if 0 < width <= MAX_NUMBERS // len(true) and all(_is_matrix(rows, len(true), width) for rows in (true, predicted)):
        return {"true": true, "predicted": predicted}
    return None


def _is_matrix(rows: Any, height: int, width: int) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) == height
        and all(isinstance(row, list) and len(row) == width and all(map(is_number, row)) for row in rows)
    )
