"""Jobs of a sweep that repeat one experiment: the folds of a cross-validation and several seeds, told as mean ± deviation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

from omegaconf import DictConfig

from src.sweeping.space import refuse_too_many
from src.tracking.console import new_table, number, show

FOLD = "cross_validation.fold"
REPEATS = (FOLD, "cross_validation.seed", "seed")
"""Keys that repeat an experiment instead of changing it."""
CONFIDENCE = 0.95


def with_folds(words: Sequence[str], config: DictConfig) -> list[str]:
    """Return the words of a sweep; where they ask for a cross-validation and name no fold, with all of its folds."""
    folds = config.cross_validation.folds
    named = any(word.lstrip("+").partition("=")[0] == FOLD for word in words)
    if not isinstance(folds, int) or config.cross_validation.fold is not None or named:
        return list(words)
    refuse_too_many(folds, f"cross_validation.folds={folds}")
    return [*words, f"{FOLD}={','.join(str(number) for number in range(1, folds + 1))}"]


class Measured(Protocol):
    """What is known of a job that has a value."""

    @property
    def overrides(self) -> Sequence[str]: ...
    @property
    def status(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def value(self) -> float | None: ...


@dataclass(frozen=True)
class Repeated:
    """What the repetitions of one experiment gave.

    Args:
        choices: what tells the experiment from the others, by key.
        metric, mode: what was measured, and its direction.
        values: of the finished jobs; of several folds and seeds, of every pair.
        seeds: the mean over the folds of each seed, or the values themselves where there are no folds.
        folds: how many there are, 0 without cross-validation.
    """

    choices: Mapping[str, str]
    metric: str
    mode: str
    values: tuple[float, ...]
    seeds: tuple[float, ...]
    folds: int

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """The sample's standard deviation, with n - 1."""
        return stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the mean over seeds, by Student's t; None with fewer than two seeds.

        Folds give none: they share most of their training data, so that their spread says too little of the error of the
        mean (Bengio and Grandvalet, 2004). With folds and seeds, it is of the chance in training, on these data.
        """
        if len(self.seeds) < 2:
            return None
        from scipy.special import stdtrit  # scipy.stats takes a second to import

        n = len(self.seeds)
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(self.seeds) / math.sqrt(n)
        return fmean(self.seeds) - half, fmean(self.seeds) + half


def repeated(jobs: Sequence[Measured]) -> list[Repeated]:
    """Return every experiment that finished jobs repeat, the best mean first; none where no key of `REPEATS` varies."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[dict[str, str], Measured]]] = {}
    finished = [job for job in jobs if job.status == "finished" and job.value is not None]
    for job in finished:
        chosen = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in job.overrides)}
        repeats = {key: chosen.pop(key) for key in REPEATS if key in chosen}
        groups.setdefault((("metric", job.metric), *chosen.items()), []).append((repeats, job))
    found = [_of(dict(key[1:]), members) for key, members in groups.items() if len(members) > 1]
    return sorted(found, key=lambda one: (one.metric, one.mean if one.mode == "min" else -one.mean))


def _of(choices: dict[str, str], members: Sequence[tuple[dict[str, str], Measured]]) -> Repeated:
    values = [float(job.value or 0.0) for _, job in members]
    folds = {repeats[FOLD] for repeats, _ in members if FOLD in repeats}
    by_seed: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for (repeats, _), value in zip(members, values, strict=True):
        by_seed.setdefault(tuple((k, v) for k, v in repeats.items() if k != FOLD), []).append(value)
    first = members[0][1]
    return Repeated(choices, first.metric, first.mode, tuple(values), tuple(map(fmean, by_seed.values())), len(folds))


def print_repeats(jobs: Sequence[Measured]) -> None:
    """Print the mean ± deviation of every experiment that was repeated, the best first, one table for each metric."""
    found = repeated(jobs)
    for metric in dict.fromkeys(one.metric for one in found):
        same = [one for one in found if one.metric == metric]
        keys = [k for k in dict.fromkeys(k for one in same for k in one.choices) if _varies(k, same)]
        intervals = any(one.interval for one in same)
        heads = (
            metric,
            "±",
            *([f"{100 * CONFIDENCE:.0f} % interval of the mean"] if intervals else []),
            "folds",
            "seeds",
        )
        table = new_table(*heads, *keys, numbers=heads)
        for one in same:
            low, high = one.interval or (None, None)
            between = [f"{number(low)} to {number(high)}" if one.interval else "-"] if intervals else []
            spread = [number(one.mean), number(one.deviation), *between]
            table.add_row(*spread, str(one.folds or "-"), str(len(one.seeds)), *(one.choices.get(k, "-") for k in keys))
        print(f"mean ± standard deviation of {metric} over folds and seeds:")
        show(table)


def _varies(key: str, experiments: Sequence[Repeated]) -> bool:
    return len({one.choices.get(key) for one in experiments}) > 1
