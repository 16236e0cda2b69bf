"""What pictures and page draw: mean curves of repeated runs, axes of hyperparameters, answers."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from src.comparison.config_keys import MISSING, short, shown
from src.comparison.view import Row, View
from src.run_store.recorded_run import Curve, RecordedRun, by_factors, is_number

LOGARITHMIC = 20.0
"""The largest value over the smallest from which the axis of a hyperparameter is logarithmic; that of a learning rate
always is."""
FAR = 5.0
"""The same for a metric."""
MOST_CLASSES = 200
MOST_NUMBERS = 10_000
"""Classes and predicted numbers that a page shows; `src.callbacks.predictions` writes fewer."""


@dataclass(frozen=True)
class Band:
    """A curve of several runs: each epoch's mean, lowest and highest value. A run that stopped before the others counts with
    its last value, as otherwise the mean would jump where it stops.

    Args:
        epochs, mean, low, high: [n].
    """

    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def band(runs: Iterable[RecordedRun], metric: str) -> Band | None:
    """Return the curve of a metric over the repetitions of one config; None where none of them has it."""
    curves = [curve for run in runs if (curve := run.curves.get(metric)) and len(curve.epochs)]
    if not curves:
        return None
    if len(curves) == 1:
        return Band(curves[0].epochs, curves[0].values, curves[0].values, curves[0].values)
    epochs = sorted({epoch for curve in curves for epoch in curve.epochs})
    known = [_held(curve, epochs) for curve in curves]
    points = [[value for value in values if isfinite(value)] or [nan] for values in zip(*known, strict=True)]
    return Band(epochs, [sum(p) / len(p) for p in points], list(map(min, points)), list(map(max, points)))


def _held(curve: Curve, epochs: Sequence[int]) -> list[float]:
    """Return the value of a curve in each epoch: its last one where it has none, NaN before its first."""
    at = dict(zip(*curve, strict=True))
    held, last = [], nan
    for epoch in epochs:
        last = at.get(epoch, last)
        held.append(last)
    return held


def metrics_drawn(view: View, rows: Sequence[Row]) -> list[str]:
    """Return the metrics that have curves, the view's own first and ``lr`` last."""
    names = dict.fromkeys(name for row in rows for run in row.counted for name in run.curves)
    return sorted(names, key=lambda name: (name != view.metric, name == "lr", _split_last(name)))


def _split_last(name: str) -> tuple[str, bool]:
    split, _, metric = name.partition("/")
    return metric, split == "train"


@dataclass(frozen=True)
class Axis:
    """The values of one hyperparameter.

    Args:
        key: of the config.
        values: of each row: numbers, or the places of `names` where they are no numbers.
        names: of the places; empty for numbers.
        logarithmic: whether they differ by factors.
    """

    key: str
    values: tuple[float, ...]
    names: tuple[str, ...] = ()
    logarithmic: bool = False


def axis(key: str, rows: Sequence[Row]) -> Axis:
    """Return the axis of a key over some rows; runs without the key have a place of their own."""
    found = [row.best.config.get(key, MISSING) for row in rows]
    if found and all(is_number(value) for value in found):
        numbers = tuple(float(value) for value in found)
        lowest, highest = min(numbers), max(numbers)
        return Axis(key, numbers, (), lowest > 0 and (by_factors(key) or highest / lowest >= LOGARITHMIC))
    texts = [shown(value) for value in found]
    names = sorted(set(texts), key=_order)
    return Axis(key, tuple(float(names.index(text)) for text in texts), tuple(names))


def _order(text: str) -> tuple[bool, float, str]:
    """Sort numbers by their value, before words."""
    with suppress(ValueError):
        return False, float(text), text
    return True, 0.0, text


def far_apart(values: Sequence[float]) -> bool:
    """Whether the values of a metric differ by factors, so that a logarithmic axis shows more of them."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > FAR


def best_rows(view: View, most: int) -> list[Row]:
    """Return the rows with a rank, best first, at most so many."""
    return sorted((row for row in view.rows if row.rank), key=lambda row: row.rank or 0)[:most]


def label(row: Row, keys: Sequence[str]) -> str:
    """Return what tells a row from the others, such as ``lr=0.01 model=mlp``."""
    words = [f"{name}={row.text(key)}" for name, key in zip(short(keys), keys, strict=True)]
    return " ".join(words) or row.best.name


def answers(run: RecordedRun) -> Mapping[str, Any] | None:
    """Return what the tested weights of a run answered, as `src.callbacks.predictions` wrote it: ``classes`` and
    ``confusion``, or
    ``true`` and ``predicted`` numbers; None where there is none, or where it is damaged.
    """
    found = run.read_answers()
    if not isinstance(found, dict):
        return None
    names, counts = found.get("classes"), found.get("confusion")
    if isinstance(names, list) and 0 < len(names) <= MOST_CLASSES and _shaped(counts, len(names), len(names)):
        return {"classes": [shown(name) for name in names], "confusion": counts}
    true: Any = found.get("true")
    predicted = found.get("predicted")
    first = true[0] if isinstance(true, list) and true else None
    width = len(first) if isinstance(first, list) else 0
    if 0 < width <= MOST_NUMBERS // len(true) and all(_shaped(rows, len(true), width) for rows in (true, predicted)):
        return {"true": true, "predicted": predicted}
    return None


def _shaped(rows: Any, height: int, width: int) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) == height
        and all(isinstance(row, list) and len(row) == width and all(map(is_number, row)) for row in rows)
    )
