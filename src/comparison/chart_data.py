"""Data of charts and page: mean curves of repeated runs, axes of hyperparameters, predictions."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from src.comparison.config_keys import MISSING, format_value, short_names
from src.comparison.view import Row, View
from src.run_store.recorded_run import Curve, RecordedRun, is_log_scaled, is_number

KEY_LOG_RATIO = 20.0
"""Ratio of the largest to the smallest value from which the axis of a hyperparameter is logarithmic; that of a learning rate
always is."""
METRIC_LOG_RATIO = 5.0
"""The same ratio for a metric."""
MAX_CLASSES = 200
MAX_NUMBERS = 10_000
"""Largest numbers of classes and of predicted numbers in a page; `src.callbacks.predictions` writes fewer."""


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


def axis(key: str, rows: Sequence[Row]) -> Axis:
    """Return the axis of a key over some rows; `MISSING` is the value of runs without the key."""
    values = [row.best.config.get(key, MISSING) for row in rows]
    if values and all(is_number(value) for value in values):
        numbers = tuple(float(value) for value in values)
        lowest, highest = min(numbers), max(numbers)
        return Axis(key, numbers, (), lowest > 0 and (is_log_scaled(key) or highest / lowest >= KEY_LOG_RATIO))
    texts = [format_value(value) for value in values]
    names = sorted(set(texts), key=_order)
    return Axis(key, tuple(float(names.index(text)) for text in texts), tuple(names))


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
