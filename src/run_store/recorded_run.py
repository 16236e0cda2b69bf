"""The data of a run that a comparison uses, wherever it was recorded: config, record and curves."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

from src.core.data_spec import SPLITS
from src.core.errors import UserError, nearest
from src.core.records import MAX_INTEGER
from src.tasks.registry import direction_of

_BOOKKEEPING_SECTIONS = ("paths", "resume", "tags", "notes", "logger", "sweep", "callbacks")
"""Sections of a config that define where and how a run is recorded, and are not compared."""

SIZES = ("parameters", "multiply_adds")
"""Sizes of a run that are entries of its record; any other size is a key of its config."""

_RECORD_KEYS = ("started", "command", "error", "wandb")
"""Entries of run.json that a comparison uses. The git diff, which can be long, is not one of them."""


_LOG_SCALED = ("lr", "weight_decay", "eps", "min_lr", "eta_min")


def is_log_scaled(key: str) -> bool:
    """Return whether a key of a config is varied by factors, as a learning rate is, and so belongs on a logarithmic axis."""
    return key.rpartition(".")[2].endswith(_LOG_SCALED)


class Curve(NamedTuple):
    """A metric over time.

    Args:
        epochs: [n], from 1.
        values: [n]; NaN where a value was not finite.
    """

    epochs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class RecordedRun:
    """One run in a comparison.

    Args:
        name: the displayed name.
        place: the folder, or the address on a server.
        config: values by dotted key, without the sections that define where and how the run is recorded.
        status: ``running``, ``interrupted``, ``failed``, ``pruned``, ``finished`` or ``unknown``.
        metric, mode: the metric that selected the best epoch, and whether ``min`` or ``max`` is best.
        value: the best value of the metric so far.
        seconds: duration of the run.
        summary: the metrics of the best epoch and of the test, by ``split/name``.
        record: parameters, multiply_adds, best_epoch (from 0), started, command, error, wandb.
        read_curves: returns the curves; called once, when they are needed.
        load_predictions: returns the contents of predictions.json; None if they cannot be read.
        read_attention: returns the attention maps that `callbacks=attention_maps` draws, as PNG by name.
        folder: the run folder; None on a server.
    """

    name: str
    place: str
    config: Mapping[str, Any]
    status: str
    metric: str
    mode: str
    value: float | None
    seconds: float | None
    summary: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    read_curves: Callable[[], Mapping[str, Curve]] = field(default=dict, repr=False, compare=False)
    load_predictions: Callable[[], Any] = field(default=dict, repr=False, compare=False)
    read_attention: Callable[[], Mapping[str, bytes]] = field(default=dict, repr=False, compare=False)
    folder: Path | None = None

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """The metrics of every epoch, and ``lr``, by name."""
        return self.read_curves()

    def size(self, name: str) -> float:
        """Return a size of the run, by which runs can be sorted.

        Args:
            name: ``parameters``, ``multiply_adds``, or a key of the config such as ``datamodule.train_size``.

        Raises:
            UserError: if there is no such size, or if it is not a number.
        """
        numbers = {key: float(value) for key, value in self.config.items() if is_number(value)}
        if name not in self.config and name not in SIZES:
            raise UserError(f"{name}: unknown size. {nearest(name, [*SIZES, *numbers])}")
        value = self.record.get(name) if name in SIZES else numbers.get(name)
        if value is None:
            raise UserError(f"{self.place}: {name} is not a number")
        return float(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits into a float."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and -MAX_INTEGER < value < MAX_INTEGER
    )


def recorded_run(
    name: str,
    place: str,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    read_curves: Callable[[], Mapping[str, Curve]],
    load_predictions: Callable[[], Any] = dict,
    read_attention: Callable[[], Mapping[str, bytes]] = dict,
    folder: Path | None = None,
) -> RecordedRun:
    """Build a run from its config and its record.

    Args:
        name: the displayed name.
        place: the folder, or the address on a server.
        config: values by dotted key, as `src.run_store.filters.flatten` yields them.
        record: the contents of run.json; entries that are missing or have a wrong type are left out.
        read_curves: returns the curves, such as ``lambda: curves_of(rows)``; called only if they are needed, or if the run
            has not finished.
        load_predictions, read_attention: as in `RecordedRun`.
        folder: the run folder; None on a server.
    """
    metric = str(record.get("monitor") or config.get("monitor") or "val/loss")
    mode = record["mode"] if record.get("mode") in ("min", "max") else direction_of(metric)
    status = str(record.get("status") or "unknown")
    summary = _numbers(record.get("best")) | _numbers(record.get("final"))
    numbers = {key: record[key] for key in ("value", "best_epoch", "seconds", *SIZES) if is_number(record.get(key))}
    value, epoch = numbers.get("value"), numbers.get("best_epoch")
    if status != "finished":  # the record gets its results at the end of the run
        curves = read_curves()
        read_curves = partial(dict, curves)
        if metric in curves:
            epoch, summary = best_of(curves, metric, mode)
            value = summary.get(metric)
    return RecordedRun(
        name=name,
        place=place,
        config={key: config[key] for key in _compared_keys(tuple(config))},
        status=status,
        metric=metric,
        mode=mode,
        value=value,
        seconds=numbers.get("seconds"),
        summary=summary,
        record={
            **{key: record.get(key) for key in _RECORD_KEYS},
            **{key: numbers.get(key) for key in SIZES},
            "best_epoch": epoch,
        },
        read_curves=read_curves,
        load_predictions=load_predictions,
        read_attention=read_attention,
        folder=folder,
    )


@lru_cache(maxsize=128)  # most runs have the same keys
def _compared_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of a config that are not in `_BOOKKEEPING_SECTIONS`."""
    return tuple(key for key in keys if key.partition(".")[0] not in _BOOKKEEPING_SECTIONS)


def _numbers(entries: Any) -> dict[str, float]:
    """Return the metrics among some entries: numbers whose name has a split in front."""
    pairs = entries.items() if isinstance(entries, Mapping) else ()
    return {name: float(value) for name, value in pairs if is_number(value) and "/" in name}


def best_of(curves: Mapping[str, Curve], metric: str, mode: str) -> tuple[int | None, dict[str, float]]:
    """Return the best epoch, counted from 0, and the values of all metrics in it; of equal epochs, the first.

    Args:
        curves: curves of a run.
        metric, mode: the metric that is compared, and whether ``min`` or ``max`` is best.
    """
    curve = curves.get(metric, Curve((), ()))
    sign = 1 if mode == "min" else -1
    scored = [(sign * value if isfinite(value) else inf, epoch) for epoch, value in zip(*curve, strict=True)]
    if not scored or min(scored)[0] == inf:
        return None, {}
    best = min(scored)[1]
    metrics = {name: curve.values[curve.epochs.index(best)] for name, curve in curves.items() if best in curve.epochs}
    return best - 1, _numbers(metrics)


def curves_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return the curves of the metrics that are logged once per epoch, and of ``lr``. The last value of an epoch counts.

    Args:
        entries: as `read_metrics` returns them.
    """
    points_by_name: dict[str, dict[int, float]] = {}
    for entry in entries:
        epoch = entry.get("epoch")
        if not isinstance(epoch, int) or not 0 <= epoch < 2**31:
            continue
        for name, value in entry.items():
            points = points_by_name.get(name)
            if points is None:
                if not _is_epoch_metric(name):
                    continue
                points = points_by_name[name] = {}
            points[epoch + 1] = value
    return {
        name: Curve(
            array("l", points), array("d", (float(value) if is_number(value) else nan for value in points.values()))
        )
        for name, points in points_by_name.items()
    }


def _is_epoch_metric(name: str) -> bool:
    split = name.partition("/")[0]
    return name == "lr" or (split in SPLITS and split != "test" and not name.endswith("_step"))
