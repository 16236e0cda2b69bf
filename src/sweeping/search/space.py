"""What a sweep varies: the words of its command line, taken apart into what all its jobs share and what differs."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from src.core.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 4
"""Significant digits of a number that is drawn: more of them change no result, and no name of a folder gets longer."""

MOST = 100_000
"""Points that a command may list: half an hour of checking, and a ledger that opens in seconds."""

REPEATS = 1000
"""Draws in a row that were there already, after which no others are expected."""


@dataclass(frozen=True)
class Values:
    """A key with a list of values, ``key=a,b,c``; those of ``range(…)`` have an order.

    Args:
        key: as it is typed.
        words: the values.
        steps: the first and last number and their distance, where they have an order.
    """

    key: str
    words: tuple[str, ...]
    steps: tuple[float, float, float] | None = None

    def at(self, quantile: float) -> str:
        """Return the value at a quantile in [0, 1) of the uniform distribution."""
        return self.words[int(quantile * len(self.words))]

    def probes(self) -> tuple[str, ...]:
        """Return the values with which it is checked whether the key can be varied so."""
        return self.words

    def distribution(self) -> "BaseDistribution":
        from optuna import distributions

        if self.steps is None:
            return distributions.CategoricalDistribution(self.words)
        low, high, step = self.steps
        if all(isinstance(number, int) for number in self.steps):
            return distributions.IntDistribution(int(low), int(high), step=int(step))
        return distributions.FloatDistribution(low, high, step=step)

    def word(self, value: Any) -> str:
        """Return a value of the distribution as it is typed.

        Raises:
            UserError: if it is none of the distribution: a study comes from a file.
        """
        if isinstance(value, str):
            if value in self.words:
                return value
        elif self.steps is not None and _is_within(value, self.steps[0], self.steps[1]):
            return _written(value)
        raise UserError(f"{self.key}: {str(value)[:80]!r} is not one of its values")

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Interval:
    """A key with a range of numbers, ``key=interval(low,high)``, whole ones with ``int(interval(…))``.

    Args:
        key: as it is typed.
        low, high: the ends, which belong to it.
        log: equal ratios are equally likely, ``tag(log,interval(…))``.
    """

    key: str
    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, quantile: float) -> str:
        """Return the value at a quantile in [0, 1) of the uniform or log-uniform distribution."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            return self.word(math.exp(math.log(low) + quantile * (math.log(high) - math.log(low))))
        return self.word(low + quantile * (high - low))

    def probes(self) -> tuple[str, ...]:
        """Return the values with which it is checked whether the key can be varied so."""
        return self.word(self.low), self.word(self.high)

    def distribution(self) -> "BaseDistribution":
        from optuna import distributions

        if self.whole:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def word(self, value: Any) -> str:
        """Return a number as it is typed, within the ends.

        Raises:
            UserError: if it is no finite number: a study comes from a file.
        """
        if not _is_within(value, -math.inf, math.inf):
            raise UserError(f"{self.key}: {str(value)[:80]!r} is not a number")
        number = round(value) if self.whole else float(_written(value))
        if self.low < number < self.high:
            return _written(number)
        return str(self.low if number <= self.low else self.high)

    def __str__(self) -> str:
        scale = ", log scale" if self.log else ""
        return f"{_written(self.low)} … {_written(self.high)}{scale}{', whole numbers' if self.whole else ''}"


Axis = Values | Interval


@dataclass(frozen=True)
class Space:
    """The words of a sweep, in their order: a word that all jobs share, or an axis."""

    parts: tuple[str | Axis, ...]

    @classmethod
    def of(cls, words: Iterable[str], loader: Any = None) -> "Space":
        """Take words apart; of two with the same key the later counts.

        Args:
            words: of a command line.
            loader: Hydra's config loader, which finds the options of ``glob(…)``.

        Raises:
            UserError: if an interval has no inside, or a logarithm none of its values.
        """
        parser = OverridesParser.create(config_loader=loader)
        parts: dict[str, str | Axis] = {}
        for override in parser.parse_overrides(list(words)):
            key = override.get_key_element()
            parts[key] = _axis(key, override) if override.is_sweep_override() else _word(key, override)
        return cls(tuple(parts.values()))

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def fixed(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    def point(self, chosen: Sequence[str]) -> list[str]:
        """Return the words of a job.

        Args:
            chosen: a value of each axis.
        """
        values = iter(chosen)
        return [part if isinstance(part, str) else f"{part.key}={next(values)}" for part in self.parts]

    def label(self, chosen: Sequence[str]) -> list[str]:
        """Return those words of a job that are its own."""
        return [f"{axis.key}={value}" for axis, value in zip(self.axes, chosen, strict=True)]

    def draw(self, count: int, seed: int) -> list[list[str]]:
        """Return different points drawn at random, fewer where there are no more.

        The number of a draw and the seed decide it alone: a longer list begins with the shorter one.
        """
        import numpy as np

        found: dict[tuple[str, ...], None] = {}
        repeated = 0
        for number in itertools.count():
            if len(found) == count or repeated == REPEATS:
                break
            quantiles = np.random.default_rng([seed, number]).random(len(self.axes))
            chosen = tuple(axis.at(q) for axis, q in zip(self.axes, quantiles, strict=True))
            repeated = repeated + 1 if chosen in found else 0
            found[chosen] = None
        return [self.point(chosen) for chosen in found]

    def grid(self) -> Iterator[list[str]]:
        """Yield the words of every combination.

        Raises:
            UserError: if an axis is an interval.
        """
        for axis in self.axes:
            if isinstance(axis, Interval):
                some = ",".join(dict.fromkeys(axis.at(share) for share in (0.0, 0.5, 0.999)))
                raise UserError(
                    f"{axis.key}={axis}: search=grid cannot take every number of an interval. search=random and "
                    f"search=optuna draw from it; a grid needs a list, such as {axis.key}={some}"
                )
        count = math.prod(len(axis.probes()) for axis in self.axes)
        advice = ". search=random search.trials=100 draws some of them"
        refuse_too_many(count, " × ".join(axis.key for axis in self.axes), advice)
        lists = [axis.words for axis in self.axes if isinstance(axis, Values)]
        yield from (self.point(chosen) for chosen in itertools.product(*lists))

    def probes(self) -> Iterator[list[str]]:
        """Yield points that have each end or value of each axis once, the other axes at their first."""
        first = [axis.probes()[0] for axis in self.axes]
        yield self.point(first)
        for place, axis in enumerate(self.axes):
            for value in axis.probes()[1:]:
                yield self.point([*first[:place], value, *first[place + 1 :]])


def refuse_too_many(count: float, of: str, advice: str = "") -> None:
    """Refuse more points than anybody means.

    Args:
        count: of the points.
        of: what makes them.
        advice: what to do instead.

    Raises:
        UserError: if there are more than `MOST`.
    """
    if count > MOST:
        raise UserError(f"{of}: {count:,.0f} jobs, and a sweep has {MOST:,} at most{advice}")


def _word(key: str, override: Override) -> str:
    return f"{key}={override.get_value_element_as_str()}"


def _axis(key: str, override: Override) -> Axis:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return _interval(key, sweep)
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
        refuse_too_many(abs((sweep.stop - sweep.start) / (sweep.step or 1)), override.input_line or key)
    words = tuple(override.sweep_string_iterator())
    if not words:
        raise UserError(f"{override.input_line}: there is nothing in this range")
    if isinstance(sweep, RangeSweep) and len(words) > 1 and not sweep.shuffle:
        numbers = [int(word) if _is_whole(word) else float(word) for word in words]
        low, high = min(numbers), max(numbers)
        step = abs(numbers[1] - numbers[0])
        return Values(key, words, (low, high, step))
    return Values(key, words)


def _interval(key: str, sweep: IntervalSweep) -> Interval:
    low, high = sweep.start, sweep.end
    assert low is not None and high is not None
    shown = f"{key}=interval({low:g},{high:g})"
    if unknown := sweep.tags - {"log"}:
        raise UserError(f"{shown}: unknown tag '{min(unknown)}'. Possible: log.")
    if not low < high:
        raise UserError(f"{shown}: the first number must be the smaller one")
    log = "log" in sweep.tags
    if log and low <= 0:
        raise UserError(
            f"{shown}: a logarithmic scale has only positive numbers; without tag(log,…) it is a linear one"
        )
    return Interval(key, low, high, log)


def _is_within(value: object, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return number and low <= value <= high  # type: ignore[operator]


def _is_whole(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{DIGITS}g}"
