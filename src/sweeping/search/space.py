"""The search space of a sweep: the overrides that all its jobs share, and the axes that it varies."""

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
"""Significant digits of a sampled number: more would change no result and make folder names longer."""

MAX_POINTS = 100_000
"""Maximum number of points of a command: these take half an hour to check, and their ledger opens in seconds."""

MAX_REPEATED_DRAWS = 1000
"""Number of consecutive draws of known points after which sampling ends."""


@dataclass(frozen=True)
class Values:
    """A key with a list of values, ``key=a,b,c``; those of ``range(…)`` have an order.

    Args:
        key: as in the override.
        values: as in the override.
        steps: the first and last number and their distance, if they have an order.
    """

    key: str
    values: tuple[str, ...]
    steps: tuple[float, float, float] | None = None

    def at(self, quantile: float) -> str:
        """Return the value at a quantile in [0, 1) of the uniform distribution."""
        return self.values[int(quantile * len(self.values))]

    def probes(self) -> tuple[str, ...]:
        """Return the values that are checked before the sweep starts."""
        return self.values

    def distribution(self) -> "BaseDistribution":
        from optuna import distributions

        if self.steps is None:
            return distributions.CategoricalDistribution(self.values)
        low, high, step = self.steps
        if all(isinstance(number, int) for number in self.steps):
            return distributions.IntDistribution(int(low), int(high), step=int(step))
        return distributions.FloatDistribution(low, high, step=step)

    def format_value(self, value: Any) -> str:
        """Return a value of the distribution as it is written in an override.

        Raises:
            UserError: if it is not a value of the distribution, since a study is read from a file.
        """
        if isinstance(value, str):
            if value in self.values:
                return value
        elif self.steps is not None and _is_within(value, self.steps[0], self.steps[1]):
            return _format_number(value)
        raise UserError(f"{self.key}: {str(value)[:80]!r} is not one of its values")

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Interval:
    """A key with a range of numbers, ``key=interval(low,high)``, whole ones with ``int(interval(…))``.

    Args:
        key: as in the override.
        low, high: the ends, inclusive.
        log: sample log-uniformly, ``tag(log,interval(…))``.
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
            return self.format_value(math.exp(math.log(low) + quantile * (math.log(high) - math.log(low))))
        return self.format_value(low + quantile * (high - low))

    def probes(self) -> tuple[str, ...]:
        """Return the values that are checked before the sweep starts."""
        return self.format_value(self.low), self.format_value(self.high)

    def distribution(self) -> "BaseDistribution":
        from optuna import distributions

        if self.whole:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def format_value(self, value: Any) -> str:
        """Return a number as it is written in an override, clamped to the interval.

        Raises:
            UserError: if it is not a finite number, since a study is read from a file.
        """
        if not _is_within(value, -math.inf, math.inf):
            raise UserError(f"{self.key}: {str(value)[:80]!r} is not a number")
        number = round(value) if self.whole else float(_format_number(value))
        if self.low < number < self.high:
            return _format_number(number)
        return str(self.low if number <= self.low else self.high)

    def __str__(self) -> str:
        scale = ", log scale" if self.log else ""
        return (
            f"{_format_number(self.low)} … {_format_number(self.high)}{scale}{', whole numbers' if self.whole else ''}"
        )


Axis = Values | Interval


@dataclass(frozen=True)
class Space:
    """The overrides of a sweep in their order, each either shared by all jobs or an axis."""

    parts: tuple[str | Axis, ...]

    @classmethod
    def of(cls, overrides: Iterable[str], loader: Any = None) -> "Space":
        """Parse overrides; of two with the same key, the later one wins.

        Args:
            overrides: overrides of a command line.
            loader: Hydra's config loader, which finds the options of ``glob(…)``.

        Raises:
            UserError: if an interval is empty, or a logarithmic one is not positive.
        """
        parser = OverridesParser.create(config_loader=loader)
        parts: dict[str, str | Axis] = {}
        for parsed in parser.parse_overrides(list(overrides)):
            key = parsed.get_key_element()
            parts[key] = _axis(key, parsed) if parsed.is_sweep_override() else _fixed(key, parsed)
        return cls(tuple(parts.values()))

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def fixed(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    def point(self, chosen: Sequence[str]) -> list[str]:
        """Return the overrides of a job.

        Args:
            chosen: a value of each axis.
        """
        values = iter(chosen)
        return [part if isinstance(part, str) else f"{part.key}={next(values)}" for part in self.parts]

    def label(self, chosen: Sequence[str]) -> list[str]:
        """Return the overrides of a job that differ from other jobs."""
        return [f"{axis.key}={value}" for axis, value in zip(self.axes, chosen, strict=True)]

    def draw(self, count: int, seed: int) -> list[list[str]]:
        """Return distinct random points; fewer if there are no more.

        A draw depends only on the seed and its number, so a longer list begins with the shorter one.
        """
        import numpy as np

        draws: dict[tuple[str, ...], None] = {}
        repeated = 0
        for number in itertools.count():
            if len(draws) == count or repeated == MAX_REPEATED_DRAWS:
                break
            quantiles = np.random.default_rng([seed, number]).random(len(self.axes))
            chosen = tuple(axis.at(q) for axis, q in zip(self.axes, quantiles, strict=True))
            repeated = repeated + 1 if chosen in draws else 0
            draws[chosen] = None
        return [self.point(chosen) for chosen in draws]

    def grid(self) -> Iterator[list[str]]:
        """Yield the overrides of every combination.

        Raises:
            UserError: if an axis is an interval.
        """
        for axis in self.axes:
            if isinstance(axis, Interval):
                examples = ",".join(dict.fromkeys(axis.at(share) for share in (0.0, 0.5, 0.999)))
                raise UserError(
                    f"{axis.key}={axis}: search=grid cannot list every number of an interval. search=random and "
                    f"search=optuna sample from it; a grid needs a list, such as {axis.key}={examples}"
                )
        count = math.prod(len(axis.probes()) for axis in self.axes)
        advice = ". search=random search.trials=100 samples some of them"
        check_count(count, " × ".join(axis.key for axis in self.axes), advice)
        lists = [axis.values for axis in self.axes if isinstance(axis, Values)]
        yield from (self.point(chosen) for chosen in itertools.product(*lists))

    def probes(self) -> Iterator[list[str]]:
        """Yield points that cover each end or value of each axis once, with the other axes at their first value."""
        first = [axis.probes()[0] for axis in self.axes]
        yield self.point(first)
        for index, axis in enumerate(self.axes):
            for value in axis.probes()[1:]:
                yield self.point([*first[:index], value, *first[index + 1 :]])


def check_count(count: float, source: str, advice: str = "") -> None:
    """Raise an error if there are too many points.

    Args:
        count: count of the points.
        source: the overrides that create them.
        advice: what to do instead.

    Raises:
        UserError: if there are more than `MAX_POINTS`.
    """
    if count > MAX_POINTS:
        raise UserError(f"{source}: {count:,.0f} jobs, but a sweep has at most {MAX_POINTS:,}{advice}")


def _fixed(key: str, parsed: Override) -> str:
    return f"{key}={parsed.get_value_element_as_str()}"


def _axis(key: str, parsed: Override) -> Axis:
    sweep = parsed.value()
    if isinstance(sweep, IntervalSweep):
        return _interval(key, sweep)
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
        check_count(abs((sweep.stop - sweep.start) / (sweep.step or 1)), parsed.input_line or key)
    values = tuple(parsed.sweep_string_iterator())
    if not values:
        raise UserError(f"{parsed.input_line}: this range is empty")
    if isinstance(sweep, RangeSweep) and len(values) > 1 and not sweep.shuffle:
        numbers = [int(value) if _is_whole(value) else float(value) for value in values]
        low, high = min(numbers), max(numbers)
        step = abs(numbers[1] - numbers[0])
        return Values(key, values, (low, high, step))
    return Values(key, values)


def _interval(key: str, sweep: IntervalSweep) -> Interval:
    low, high = sweep.start, sweep.end
    assert low is not None and high is not None
    override = f"{key}=interval({low:g},{high:g})"
    if unknown := sweep.tags - {"log"}:
        raise UserError(f"{override}: unknown tag '{min(unknown)}'. Possible: log.")
    if not low < high:
        raise UserError(f"{override}: the first number must be less than the second")
    log = "log" in sweep.tags
    if log and low <= 0:
        raise UserError(f"{override}: a logarithmic scale needs positive numbers; remove tag(log,…) for a linear one")
    return Interval(key, low, high, log)


def _is_within(value: object, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return number and low <= value <= high  # type: ignore[operator]


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdigit()


def _format_number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{DIGITS}g}"
