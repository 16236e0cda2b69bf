"""View of some runs: ranked rows, one for each config, with seeds and folds as repetitions of it.

All output of a comparison (terminal, exports, plots, page, Weights & Biases) is made from a `View`, and a view from
`RecordedRun`s alone, whatever they were read from.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite
from typing import Any

from src.comparison.config_keys import (
    MISSING,
    comparable,
    format_value,
    informative_keys,
    is_repetition_key,
    resolve_name,
)
from src.comparison.statistics import Sample, format_number, holm, paired, sample, welch
from src.core.console import format_duration
from src.core.errors import UserError
from src.run_store.recorded_run import RecordedRun, is_number
from src.tasks.registry import direction_of

COLUMNS = ("runs", "gap", "time", "parameters", "epoch", "status", "run")
"""Columns of a row that are neither metrics nor config keys."""
_WHOLE = ("parameters", "epoch", "runs")
_ENDED = ("finished", "failed", "pruned", "interrupted", "running", "unknown")


@dataclass(frozen=True)
class Row:
    """One config.

    Args:
        runs: its repetitions, best first.
        counted: the runs that the numbers are computed from: the finished ones or, if there are none, all that have a value;
            of runs with the same seed and fold, the latest.
        score: the metric over the counted runs.
        rank: from 1; None without a score.
        p: p-value of the same mean as the best row; None for the best row and if it cannot be tested.
    """

    runs: tuple[RecordedRun, ...]
    counted: tuple[RecordedRun, ...]
    score: Sample | None
    rank: int | None = None
    p: float | None = None

    @property
    def best(self) -> RecordedRun:
        """The best run."""
        return self.runs[0]

    @cached_property
    def status(self) -> str:
        """The status of its runs, with their numbers if they differ."""
        counts = statuses(self.runs)
        return ", ".join(f"{n} {name}" for name, n in counts.items()) if len(counts) > 1 else next(iter(counts))

    def value(self, column: str) -> Any:
        """Return the value of a column: a `Sample` of numbers, a value of the config, or text; None without a value."""
        if column == "runs":
            return len(self.counted) or len(self.runs)
        if column == "status":
            return self.status
        if column == "run":
            return self.best.name
        if column in self.best.config and not is_measure(column):
            return self.best.config[column]
        values = [value for run in self.counted if (value := measurement(run, column)) is not None]
        return sample(values) if values else None

    def text(self, column: str) -> str:
        """Return the value of a column as text."""
        value = self.value(column)
        if value is None and column not in self.best.config:
            return MISSING
        if isinstance(value, Sample):
            if column == "time":
                return format_duration(value.mean)
            return f"{value.mean:,.0f}" if column in _WHOLE else str(value)
        return format_number(value) if isinstance(value, float) else format_value(value)


def is_measure(column: str) -> bool:
    """Return whether a column is a measurement, not a key of a config."""
    return column in COLUMNS or "/" in column


def measurement(run: RecordedRun, column: str) -> float | None:
    """Return a number of a run: a metric of its best epoch or of its test, or one of `COLUMNS`.

    ``gap`` is the validation loss minus the training loss in the best epoch, a measure of overfitting.
    """
    if column == "time":
        return run.seconds
    if column == "parameters":
        return run.record.get("parameters")
    if column == "epoch":
        epoch = run.record.get("best_epoch")
        return None if epoch is None else epoch + 1
    if column == "gap":
        val, train = run.summary.get("val/loss"), run.summary.get("train/loss")
        value = None if val is None or train is None else val - train
    else:
        value = run.value if column == run.metric else run.summary.get(column)
    return value if value is not None and isfinite(value) else None


@dataclass(frozen=True)
class View:
    """Runs that are compared by one metric.

    Args:
        runs: all runs.
        metric, mode: metric of the ranking, and whether ``min`` or ``max`` is best.
        keys: config keys that are shown.
        dependent_keys: keys that differ too, but are determined by those.
        rows: rows, in the order of display.
        test: name of the significance test.
        folded: whether repetitions are folds, so that intervals and tests account for shared training data.
    """

    runs: tuple[RecordedRun, ...]
    metric: str
    mode: str
    keys: tuple[str, ...]
    dependent_keys: tuple[str, ...]
    rows: tuple[Row, ...]
    test: str = ""
    folded: bool = False

    @property
    def title(self) -> str:
        """Metric, data and direction, as text."""
        data = dict.fromkeys(
            format_value(run.config["datamodule.name"]) for run in self.runs if "datamodule.name" in run.config
        )
        where = f" on {', '.join(data)}" if data else ""
        return f"{format_value(self.metric)}{where}, {'lower' if self.mode == 'min' else 'higher'} is better"

    @property
    def repeated(self) -> bool:
        """Whether a row has several runs."""
        return any(len(row.runs) > 1 for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """The default columns after rank and metric."""
        gap = ["gap"] if any(row.value("gap") is not None for row in self.rows) else []
        runs = ["runs"] if self.repeated else []
        status = ["status"] if any(row.status != "finished" for row in self.rows) else []
        return [*self.keys, *runs, *gap, "time", "parameters", *status, "run"]


def metrics_of(runs: Iterable[RecordedRun]) -> list[str]:
    """Return the names of all metrics that any of the runs has."""
    return list(dict.fromkeys(name for run in runs for name in (*filter(None, [run.metric]), *run.summary)))


def names_of(runs: Sequence[RecordedRun]) -> list[str]:
    """Return every name that a user can give for some runs: columns, metrics, config keys."""
    return [*COLUMNS, *metrics_of(runs), *dict.fromkeys(key for run in runs for key in run.config)]


def statuses(runs: Iterable[RecordedRun]) -> dict[str, int]:
    """Count runs by status."""
    counts = Counter(run.status for run in runs)
    order = [*_ENDED, *sorted(set(counts) - set(_ENDED))]
    return {status: counts[status] for status in order if counts[status]}


def views(runs: Sequence[RecordedRun], metric: str | None = None, sort: str | None = None) -> list[View]:
    """Return a view for each pair of monitored metric and data set, as losses of different tasks are not comparable; with a
    metric given, one view of all runs whose data sets have it.

    Args:
        runs: runs to compare.
        metric: metric to rank by, of each run's best epoch or of the test.
        sort: column, metric or key to sort by, with ``:asc`` or ``:desc`` for another than its default order.

    Raises:
        UserError: if there is no such metric or column.
    """
    if metric is not None:
        metric = resolve_name(metric, metrics_of(runs))
        with_value = [run for run in runs if measurement(run, metric) is not None]
        if not with_value:
            raise UserError(f"{metric}: no run has a value of it yet")
        data = {run.config.get("datamodule.name") for run in with_value}
        return [_view([run for run in runs if run.config.get("datamodule.name") in data], metric, sort)]
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault((run.metric, str(run.config.get("datamodule.name", ""))), []).append(run)
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [_view(group, name, sort) for (name, _), group in largest]


def _view(runs: Sequence[RecordedRun], metric: str, sort: str | None) -> View:
    mode = next((run.mode for run in runs if run.metric == metric), direction_of(metric))
    sign = 1 if mode == "min" else -1
    keys, dependent_keys = informative_keys(runs)
    groups: dict[tuple[Any, ...], list[RecordedRun]] = {}
    for run in runs:
        values = tuple(comparable(run.config.get(key, MISSING)) for key in (*keys, *dependent_keys))
        groups.setdefault(values, []).append(run)
    repetition_keys = [
        key for key in dict.fromkeys(key for run in runs for key in run.config) if is_repetition_key(key)
    ]
    share = _share(runs, repetition_keys)
    rows = [_row(group, metric, sign, share, repetition_keys) for group in groups.values()]
    rows.sort(key=lambda row: sign * row.score.mean if row.score else inf)
    ranks = [place if row.score else None for place, row in enumerate(rows, start=1)]
    p_values, test = _tests(rows, metric, share, repetition_keys)
    rows = [
        replace(row, rank=rank, p=p_values.get(place))
        for place, (row, rank) in enumerate(zip(rows, ranks, strict=True))
    ]
    view = View(tuple(runs), metric, mode, tuple(keys), tuple(dependent_keys), tuple(rows), test, share > 0)
    return view if sort is None else _sorted(view, sort)


def _row(group: Sequence[RecordedRun], metric: str, sign: int, share: float, repetition_keys: Sequence[str]) -> Row:
    values = {run.place: value for run in group if (value := measurement(run, metric)) is not None}
    with_value = [run for run in group if run.status != "failed" and run.place in values]
    counted = _latest([run for run in with_value if run.status == "finished"] or with_value, repetition_keys)
    ordered = sorted(group, key=lambda run: (run not in counted, sign * values.get(run.place, inf * sign)))
    score = sample([values[run.place] for run in counted], share) if counted else None
    return Row(tuple(ordered), tuple(counted), score)


def _latest(runs: Iterable[RecordedRun], repetition_keys: Sequence[str]) -> list[RecordedRun]:
    """Return the latest run of each combination of seed and fold: runs with the same ones are not independent."""
    latest: dict[Any, RecordedRun] = {}
    for run in sorted(runs, key=lambda run: str(run.record.get("started"))):
        repetition = _repetition(run, repetition_keys)
        latest[repetition if any(value is not None for value in repetition) else run.place] = run
    return list(latest.values())


def _repetition(run: RecordedRun, repetition_keys: Sequence[str]) -> tuple[Any, ...]:
    """Return the seeds and folds of a run."""
    return tuple(comparable(run.config.get(key)) for key in repetition_keys)


def _share(runs: Sequence[RecordedRun], repetition_keys: Sequence[str]) -> float:
    """Return the number of test examples for each training example in k folds, 1/(k - 1); 0 without folds."""
    folds = {comparable(run.config.get(key)) for run in runs for key in repetition_keys if key.endswith("fold")} - {
        None
    }
    return 1 / (len(folds) - 1) if len(folds) > 1 else 0.0


def _tests(
    rows: Sequence[Row], metric: str, share: float, repetition_keys: Sequence[str]
) -> tuple[dict[Any, float], str]:
    """Compare every row with the first, and return Holm's p-values by index, with the name of the test.

    With folds, only rows that have the same ones are compared.
    """
    if not rows or rows[0].score is None:
        return {}, ""
    p_values: dict[Any, float] = {}
    best = _by_repetition(rows[0], metric, repetition_keys)
    for place, row in enumerate(rows[1:], start=1):
        if row.score is None:
            continue
        if share:
            values = _by_repetition(row, metric, repetition_keys)
            if values.keys() != best.keys():
                continue
            p = paired([values[fold] for fold in best], list(best.values()), share)
        else:
            p = welch(row.score.values, rows[0].score.values)
        if p is not None:
            p_values[place] = p
    name = "t-test over folds (Nadeau and Bengio)" if share else "Welch's t-test"
    return holm(p_values), name if p_values else ""


def _by_repetition(row: Row, metric: str, repetition_keys: Sequence[str]) -> dict[tuple[Any, ...], float]:
    return {
        _repetition(run, repetition_keys): value
        for run in row.counted
        if (value := measurement(run, metric)) is not None
    }


def _sorted(view: View, sort: str) -> View:
    name, _, order = sort.partition(":")
    if order not in ("", "asc", "desc"):
        raise UserError(f"--sort {sort}: the order after the colon must be asc or desc")
    column = resolve_name(name, ["rank", view.metric, *names_of(view.runs)], view.keys)
    descending = order == "desc" or (not order and "/" in column and direction_of(column) == "max")

    def value(row: Row) -> Any:
        if column == "rank":
            return row.rank
        cell = row.score if column == view.metric else row.value(column)
        return cell.mean if isinstance(cell, Sample) else cell

    with_value = [row for row in view.rows if value(row) is not None]
    numbers = all(is_number(value(row)) for row in with_value)
    with_value.sort(key=lambda row: value(row) if numbers else format_value(value(row)), reverse=descending)
    rest = [row for row in view.rows if value(row) is None]
    return replace(view, rows=(*with_value, *rest))
