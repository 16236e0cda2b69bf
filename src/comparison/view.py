"""The view of some runs: ranked rows, one for each config, with seeds and folds as repetitions of it.

Everything that shows a comparison (terminal, exports, pictures, page, Weights & Biases) is made from a `View`, and a view
from `RecordedRun`s alone, wherever they were read.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite
from typing import Any

from src.comparison.config_keys import MISSING, comparable, meant, repeats, shown, telling
from src.comparison.statistics import Sample, holm, number, paired, sample, welch
from src.core.console import duration
from src.core.errors import UserError
from src.run_store.recorded_run import RecordedRun, is_number
from src.tasks.registry import direction_of

COLUMNS = ("runs", "gap", "time", "parameters", "epoch", "status", "run")
"""What a row has beside metrics and config keys."""
_WHOLE = ("parameters", "epoch", "runs")
_ENDED = ("finished", "failed", "pruned", "interrupted", "running", "unknown")


@dataclass(frozen=True)
class Row:
    """One config.

    Args:
        runs: its repetitions, best first.
        rank: from 1; None where nothing was measured.
        score: the metric over those of the runs that count.
        p: whether the best row has another mean; None for the best itself and where it cannot be tested.
        counted: the runs that the numbers are of: the finished ones, or, as long as there is none, all that have a value;
            of runs with the same seed and fold, the latest.
    """

    runs: tuple[RecordedRun, ...]
    counted: tuple[RecordedRun, ...]
    score: Sample | None
    rank: int | None = None
    p: float | None = None

    @property
    def best(self) -> RecordedRun:
        return self.runs[0]

    @cached_property
    def status(self) -> str:
        """The status of its runs, with their number where they differ."""
        counts = statuses(self.runs)
        return ", ".join(f"{n} {name}" for name, n in counts.items()) if len(counts) > 1 else next(iter(counts))

    def value(self, column: str) -> Any:
        """Return what stands in a column: a `Sample` of numbers, a plain value of the config, or text; None where there
        is nothing.
        """
        if column == "runs":
            return len(self.counted) or len(self.runs)
        if column == "status":
            return self.status
        if column == "run":
            return self.best.name
        if column in self.best.config and not is_measure(column):
            return self.best.config[column]
        values = [value for run in self.counted if (value := measured(run, column)) is not None]
        return sample(values) if values else None

    def text(self, column: str) -> str:
        """Return what stands in a column, as it is shown."""
        value = self.value(column)
        if value is None and column not in self.best.config:
            return MISSING
        if isinstance(value, Sample):
            if column == "time":
                return duration(value.mean)
            return f"{value.mean:,.0f}" if column in _WHOLE else str(value)
        return number(value) if isinstance(value, float) else shown(value)


def is_measure(column: str) -> bool:
    """Whether a column is measured, and no key of a config."""
    return column in COLUMNS or "/" in column


def measured(run: RecordedRun, column: str) -> float | None:
    """Return a number of a run: a metric of its best epoch or of its test, or one of `COLUMNS`.

    ``gap`` is the validation loss less the training loss in the best epoch: how far it overfits.
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
        runs: all of them.
        metric, mode: what they are ranked by, and whether ``min`` or ``max`` is best.
        keys: the keys of their configs that are shown.
        following: the keys that differ too, but follow from those.
        rows: in the order in which they are shown.
        test: the test behind the marks.
        folded: whether repetitions are folds, so that intervals and tests allow for the training data that they share.
    """

    runs: tuple[RecordedRun, ...]
    metric: str
    mode: str
    keys: tuple[str, ...]
    following: tuple[str, ...]
    rows: tuple[Row, ...]
    test: str = ""
    folded: bool = False

    @property
    def title(self) -> str:
        """What is compared, in words."""
        data = dict.fromkeys(
            shown(run.config["datamodule.name"]) for run in self.runs if "datamodule.name" in run.config
        )
        where = f" on {', '.join(data)}" if data else ""
        return f"{shown(self.metric)}{where}, {'lower' if self.mode == 'min' else 'higher'} is better"

    @property
    def repeated(self) -> bool:
        return any(len(row.runs) > 1 for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """The columns between the metric and the run's name, unless others are asked for."""
        more = ["gap"] if any(row.value("gap") is not None for row in self.rows) else []
        several = ["runs"] if self.repeated else []
        status = ["status"] if any(row.status != "finished" for row in self.rows) else []
        return [*self.keys, *several, *more, "time", "parameters", *status, "run"]


def metrics_of(runs: Iterable[RecordedRun]) -> list[str]:
    """Return the names of all metrics that any of the runs has."""
    return list(dict.fromkeys(name for run in runs for name in (*filter(None, [run.metric]), *run.summary)))


def names_of(runs: Sequence[RecordedRun]) -> list[str]:
    """Return every name that a person can say of some runs: columns, metrics, config keys."""
    return [*COLUMNS, *metrics_of(runs), *dict.fromkeys(key for run in runs for key in run.config)]


def statuses(runs: Iterable[RecordedRun]) -> dict[str, int]:
    """Count runs by status."""
    counts = Counter(run.status for run in runs)
    order = [*_ENDED, *sorted(set(counts) - set(_ENDED))]
    return {status: counts[status] for status in order if counts[status]}


def views(runs: Sequence[RecordedRun], metric: str | None = None, sort: str | None = None) -> list[View]:
    """Return a view for each metric that selects best epochs and each data set, since losses of different tasks do not
    compare; with a metric given, one view of all whose data have it.

    Args:
        runs: to compare.
        metric: any that they have; its value is that of each run's best epoch, or of the test.
        sort: a column, metric or key to sort by, with ``:asc`` or ``:desc`` where its own order is not meant.

    Raises:
        UserError: if there is no such metric or column.
    """
    if metric is not None:
        metric = meant(metric, metrics_of(runs))
        have = [run for run in runs if measured(run, metric) is not None]
        if not have:
            raise UserError(f"{metric}: no run has a value of it yet")
        data = {run.config.get("datamodule.name") for run in have}
        return [_view([run for run in runs if run.config.get("datamodule.name") in data], metric, sort)]
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault((run.metric, str(run.config.get("datamodule.name", ""))), []).append(run)
    largest = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [_view(same, name, sort) for (name, _), same in largest]


def _view(runs: Sequence[RecordedRun], metric: str, sort: str | None) -> View:
    mode = next((run.mode for run in runs if run.metric == metric), direction_of(metric))
    sign = 1 if mode == "min" else -1
    keys, following = telling(runs)
    groups: dict[tuple[Any, ...], list[RecordedRun]] = {}
    for run in runs:
        values = tuple(comparable(run.config.get(key, MISSING)) for key in (*keys, *following))
        groups.setdefault(values, []).append(run)
    again = [key for key in dict.fromkeys(key for run in runs for key in run.config) if repeats(key)]
    share = _share(runs, again)
    rows = [_row(group, metric, sign, share, again) for group in groups.values()]
    rows.sort(key=lambda row: sign * row.score.mean if row.score else inf)
    ranks = [place if row.score else None for place, row in enumerate(rows, start=1)]
    p_values, test = _tests(rows, metric, share, again)
    rows = [
        replace(row, rank=rank, p=p_values.get(place))
        for place, (row, rank) in enumerate(zip(rows, ranks, strict=True))
    ]
    view = View(tuple(runs), metric, mode, tuple(keys), tuple(following), tuple(rows), test, share > 0)
    return view if sort is None else _sorted(view, sort)


def _row(group: Sequence[RecordedRun], metric: str, sign: int, share: float, again: Sequence[str]) -> Row:
    values = {run.place: value for run in group if (value := measured(run, metric)) is not None}
    have = [run for run in group if run.status != "failed" and run.place in values]
    counted = _latest([run for run in have if run.status == "finished"] or have, again)
    ordered = sorted(group, key=lambda run: (run not in counted, sign * values.get(run.place, inf * sign)))
    score = sample([values[run.place] for run in counted], share) if counted else None
    return Row(tuple(ordered), tuple(counted), score)


def _latest(runs: Iterable[RecordedRun], again: Sequence[str]) -> list[RecordedRun]:
    """Return the runs without those that another one has repeated with the same seed and fold: they are no second sample."""
    found: dict[Any, RecordedRun] = {}
    for run in sorted(runs, key=lambda run: str(run.record.get("started"))):
        repetition = _repetition(run, again)
        found[repetition if any(value is not None for value in repetition) else run.place] = run
    return list(found.values())


def _repetition(run: RecordedRun, again: Sequence[str]) -> tuple[Any, ...]:
    """Return which repetition a run is: its seeds and folds."""
    return tuple(comparable(run.config.get(key)) for key in again)


def _share(runs: Sequence[RecordedRun], again: Sequence[str]) -> float:
    """Return test examples for each training example in k folds, 1/(k - 1); 0 where there are no folds."""
    folds = {comparable(run.config.get(key)) for run in runs for key in again if key.endswith("fold")} - {None}
    return 1 / (len(folds) - 1) if len(folds) > 1 else 0.0


def _tests(rows: Sequence[Row], metric: str, share: float, again: Sequence[str]) -> tuple[dict[Any, float], str]:
    """Compare every row with the first, and return Holm's p-values by place, with the name of the test.

    Where there are folds, only rows with the same ones are compared.
    """
    if not rows or rows[0].score is None:
        return {}, ""
    found: dict[Any, float] = {}
    best = _by_repetition(rows[0], metric, again)
    for place, row in enumerate(rows[1:], start=1):
        if row.score is None:
            continue
        if share:
            own = _by_repetition(row, metric, again)
            p = paired([own[fold] for fold in best], list(best.values()), share) if own.keys() == best.keys() else None
        else:
            p = welch(row.score.values, rows[0].score.values)
        if p is not None:
            found[place] = p
    name = "t-test over folds (Nadeau and Bengio)" if share else "Welch's t-test"
    return holm(found), name if found else ""


def _by_repetition(row: Row, metric: str, again: Sequence[str]) -> dict[tuple[Any, ...], float]:
    return {_repetition(run, again): value for run in row.counted if (value := measured(run, metric)) is not None}


def _sorted(view: View, sort: str) -> View:
    word, _, order = sort.partition(":")
    if order not in ("", "asc", "desc"):
        raise UserError(f"--sort {sort}: after the colon stands asc or desc")
    column = meant(word, ["rank", view.metric, *names_of(view.runs)], view.keys)
    down = order == "desc" or (not order and "/" in column and direction_of(column) == "max")

    def value(row: Row) -> Any:
        found: Any = row.rank if column == "rank" else row.score if column == view.metric else row.value(column)
        return found.mean if isinstance(found, Sample) else found

    have = [row for row in view.rows if value(row) is not None]
    numbers = all(is_number(value(row)) for row in have)
    have.sort(key=lambda row: value(row) if numbers else shown(value(row)), reverse=down)
    rest = [row for row in view.rows if value(row) is None]
    return replace(view, rows=(*have, *rest))
