"""What is printed at the end: the metrics of a run beside a trivial baseline, and the ranking of a multirun."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.table import Table

from src.tracking.console import duration, new_table, number, show


class Result(Protocol):
    """What a ranking needs to know of a run.

    `metric` is the monitored metric's name and `value` its best value, None if the run failed before it had one.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def overrides(self) -> Sequence[str]: ...
    @property
    def status(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def seconds(self) -> float | None: ...


def final_table(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> Table:
    """Return the final metrics of a run.

    Args:
        metrics: name to value, such as {"test/accuracy": 0.97}.
        baseline: what a trivial answer reaches (the majority class, the mean, the last value), for some of the names.
    """
    columns = ("metric", "value", "trivial baseline") if baseline else ("metric", "value")
    table = new_table(*columns, numbers=columns[1:])
    for name, value in metrics.items():
        row = [name, number(value), number(baseline.get(name)) if name in baseline else ""]
        table.add_row(*row[: len(columns)])
    return table


def print_ranking(results: Sequence[Result], mode: str) -> None:
    """Print the runs of a sweep, best first; those without a value are only counted, with their folders.

    Args:
        results: the runs, in any order.
        mode: whether the metric should be ``min`` or ``max``.
    """
    ranked = rank(results, mode)
    if ranked:
        varying = differing([result.overrides for result in results])
        columns = ("rank", ranked[0].metric, *varying, "status", "time", "folder")
        table = new_table(*columns, numbers=("rank", ranked[0].metric, "time"))
        for place, result in enumerate(ranked, start=1):
            chosen = _by_key(result.overrides)
            table.add_row(
                str(place),
                number(result.value),
                *(chosen.get(key, "-") for key in varying),
                result.status,
                "-" if result.seconds is None else duration(result.seconds),
                str(result.folder),
            )
        show(table)
    without = [result for result in results if not _has_value(result)]
    if without:
        count = f"{len(without)} of {len(results)} runs have no {without[0].metric}:"
        show("\n".join([count, *(f"  {result.status}  {result.folder}" for result in without)]))


def rank(results: Sequence[Result], mode: str) -> list[Result]:
    """Return the runs that have a value, best first; runs that are equally good stay in their order.

    Args:
        results: the runs, in any order.
        mode: whether the value should be ``min`` or ``max``.
    """
    assert mode in ("min", "max")
    sign = 1 if mode == "min" else -1
    return sorted(filter(_has_value, results), key=lambda result: sign * float(result.value or 0.0))


def differing(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return the keys that are not the same in all runs, in the order in which they first stand there."""
    chosen = [_by_key(words) for words in overrides]
    keys = dict.fromkeys(key for run in chosen for key in run)
    return [key for key in keys if len({run.get(key) for run in chosen}) > 1]


def _has_value(result: Result) -> bool:
    return result.value is not None and not math.isnan(result.value)


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in overrides)}
