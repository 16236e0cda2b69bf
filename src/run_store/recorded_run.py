"""Runs as a comparison knows them, wherever they were recorded: config, record, curves."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

from src.core.data_spec import SPLITS
from src.core.errors import UserError, nearest
from src.tasks.registry import direction_of

_BESIDE = ("paths", "resume", "tags", "notes", "logger", "sweep", "callbacks")
"""Sections of a config that say where and how a run is recorded."""

SIZES = ("parameters", "multiply_adds")
"""Sizes of a run that its record holds; any other is a key of its config."""

_KEPT = ("started", "command", "error", "wandb")
"""What a comparison keeps of run.json: without the git diff, which can be long."""


_BY_FACTORS = ("lr", "weight_decay", "eps", "min_lr", "eta_min")


def by_factors(key: str) -> bool:
    """Whether what a key of a config means goes by factors, as a learning rate does, whatever values it has."""
    return key.rpartition(".")[2].endswith(_BY_FACTORS)


class Curve(NamedTuple):
    """A metric over time.

    Args:
        epochs: [n], from 1.
        values: [n]; NaN where it was not finite.
    """

    epochs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class RecordedRun:
    """One run, as a comparison wants it.

    Args:
        name: what people call it.
        place: its folder, or its address on a server.
        config: its config, a value a dotted key, without what says where and how it is recorded.
        status: ``running``, ``interrupted``, ``failed``, ``pruned``, ``finished`` or ``unknown``.
        metric, mode: what selected its best epoch, and whether ``min`` or ``max`` is best.
        value: the best value of it so far.
        seconds: that it took.
        summary: the metrics of its best epoch and of its test, by ``split/name``.
        record: parameters, multiply_adds, best_epoch (from 0), started, command, error, wandb.
        read_curves: gives its curves; called once, when they are asked for.
        read_answers: gives what answers.json holds; None where there is none that can be read.
        read_attention: gives its attention maps, as `callbacks=attention_maps` draws them: PNG by name.
        folder: where it lies; None on a server.
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
    read_answers: Callable[[], Any] = field(default=dict, repr=False, compare=False)
    read_attention: Callable[[], Mapping[str, bytes]] = field(default=dict, repr=False, compare=False)
    folder: Path | None = None

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """The metrics of every epoch, and ``lr``, by name."""
        return self.read_curves()

    def size(self, name: str) -> float:
        """Return a number that a run can be sorted by.

        Args:
            name: ``parameters``, ``multiply_adds``, or a key of the config such as ``datamodule.train_size``.

        Raises:
            UserError: if there is none of this name, or if it is no number.
        """
        known = {key: float(value) for key, value in self.config.items() if is_number(value)}
        if name not in self.config and name not in SIZES:
            raise UserError(f"{name}: unknown size. {nearest(name, [*SIZES, *known])}")
        value = self.record.get(name) if name in SIZES else known.get(name)
        if value is None:
            raise UserError(f"{self.place}: {name} is no number")
        return float(value)


_MOST = 10**300


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits into a float."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and -_MOST < value < _MOST
    )


def recorded_run(
    name: str,
    place: str,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    read_curves: Callable[[], Mapping[str, Curve]],
    read_answers: Callable[[], Any] = dict,
    read_attention: Callable[[], Mapping[str, bytes]] = dict,
    folder: Path | None = None,
) -> RecordedRun:
    """Return a run from its config and its record, wherever both were kept.

    Args:
        name: what people call it.
        place: its folder, or its address on a server.
        config: a value a dotted key, as `src.run_store.filters.flat` gives them.
        record: what run.json holds; what is missing or of a wrong type is left out.
        read_curves: gives its curves, such as ``lambda: curves_of(rows)``; called only if they are asked for, or if the run
            has not finished.
        read_answers, read_attention: as `RecordedRun` has them.
        folder: where it lies; None on a server.
    """
    metric = str(record.get("monitor") or config.get("monitor") or "val/loss")
    mode = record["mode"] if record.get("mode") in ("min", "max") else direction_of(metric)
    status = str(record.get("status") or "unknown")
    summary = _numbers(record.get("best")) | _numbers(record.get("final"))
    value, epoch, seconds, *sizes = (_number(record.get(key)) for key in ("value", "best_epoch", "seconds", *SIZES))
    if status != "finished":  # its record is written at the end
        known = read_curves()
        read_curves = partial(_given, known)
        if metric in known:
            epoch, summary = best_of(known, metric, mode)
            value = summary.get(metric)
    kept: dict[str, Any] = {key: record.get(key) for key in _KEPT} | dict(zip(SIZES, sizes, strict=True))
    return RecordedRun(
        name=name,
        place=place,
        config={key: config[key] for key in _compared_keys(tuple(config))},
        status=status,
        metric=metric,
        mode=mode,
        value=value,
        seconds=seconds,
        summary=summary,
        record=kept | {"best_epoch": epoch},
        read_curves=read_curves,
        read_answers=read_answers,
        read_attention=read_attention,
        folder=folder,
    )


@lru_cache(maxsize=128)  # most runs have the same keys
def _compared_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of a config that do not say where and how a run is recorded."""
    return tuple(key for key in keys if key.partition(".")[0] not in _BESIDE)


def _given(curves: Mapping[str, Curve]) -> Mapping[str, Curve]:
    return curves


def _numbers(entries: Any) -> dict[str, float]:
    """Return the metrics among some entries: numbers whose name has a split in front."""
    pairs = entries.items() if isinstance(entries, Mapping) else ()
    return {name: float(value) for name, value in pairs if is_number(value) and "/" in name}


def _number(value: Any) -> Any:
    return value if is_number(value) else None


def best_of(curves: Mapping[str, Curve], metric: str, mode: str) -> tuple[int | None, dict[str, float]]:
    """Return the best epoch of a metric, from 0, and the value of every metric then; of equals, the first.

    Args:
        curves: of a run.
        metric, mode: what is best.
    """
    curve = curves.get(metric, Curve((), ()))
    sign = 1 if mode == "min" else -1
    scored = [(sign * value if isfinite(value) else inf, epoch) for epoch, value in zip(*curve, strict=True)]
    if not scored or min(scored)[0] == inf:
        return None, {}
    best = min(scored)[1]
    found = {name: c.values[c.epochs.index(best)] for name, c in curves.items() if best in c.epochs}
    return best - 1, _numbers(found)


def curves_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return what was logged once an epoch, by metric, and ``lr``; of an epoch that was logged twice, the last.

    Args:
        entries: as `read_metrics` gives them.
    """
    found: dict[str, dict[int, float]] = {}
    for entry in entries:
        epoch = entry.get("epoch")
        if not isinstance(epoch, int) or not 0 <= epoch < 2**31:
            continue
        for name, value in entry.items():
            points = found.get(name)
            if points is None:
                if not _each_epoch(name):
                    continue
                points = found[name] = {}
            points[epoch + 1] = value
    return {name: Curve(array("l", points), array("d", map(_float, points.values()))) for name, points in found.items()}


def _each_epoch(name: str) -> bool:
    split = name.partition("/")[0]
    return name == "lr" or (split in SPLITS and split != "test" and not name.endswith("_step"))


def _float(value: Any) -> float:
    return float(value) if is_number(value) else nan
