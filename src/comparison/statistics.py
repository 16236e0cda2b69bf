"""Statistics of repeated runs: mean, standard deviation, confidence interval, and tests of whether two sets of runs differ.

Seeds are compared by Welch's t-test (Welch, 1947). Runs on the same folds are compared fold by fold, with the variance of Nadeau
and Bengio (2003), as folds with overlapping training sets are not independent. If several candidates are compared with the best,
their p-values are corrected by Holm's method (1979).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, fsum, hypot, inf, isfinite, log10, sqrt

CONFIDENCE = 0.95
ALPHA = 0.05
LARGEST_SUMMED = 1e300
"""Largest number whose sums with others do not overflow."""


@dataclass(frozen=True)
class Sample:
    """A number of several runs.

    Args:
        values: values of the runs.
        mean: their mean.
        deviation: standard deviation with n - 1; None for a single run.
        interval: 95 % confidence interval of the mean by Student's t; None for a single run.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.deviation is None:
            return format_number(self.mean)
        places = _places(self.deviation)
        if places is None:
            return f"{format_number(self.mean)} ± {format_number(self.deviation)}"
        return f"{self.mean:.{places}f} ± {self.deviation:.{places}f}"

    def shown_interval(self) -> str:
        """Return the interval as text, with the digits of the deviation; empty for a single run."""
        if self.interval is None or self.deviation is None:
            return ""
        places = _places(self.deviation)
        low, high = (format_number(x) if places is None else f"{x:.{places}f}" for x in self.interval)
        return f"[{low}, {high}]"


def format_number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}"


def _places(deviation: float) -> int | None:
    """Return the decimal places that show two digits of a standard deviation; None if scientific notation is shorter."""
    if not isfinite(deviation) or deviation <= 0:
        return None
    places = 1 - floor(log10(deviation))
    return max(places, 0) if places <= 7 and deviation < 1e5 else None


def sample(values: Sequence[float], share: float = 0.0) -> Sample:
    """Summarise the values of repeated runs. A deviation that does not fit into a float is infinite.

    Args:
        values: [n], at least one.
        share: test examples of a fold for each training example: 1/(k - 1) in k folds, 0 for independent runs.
    """
    n = len(values)
    mean = fsum(value / n for value in values) if max(map(abs, values)) > LARGEST_SUMMED else fsum(values) / n
    if n == 1:
        return Sample(tuple(values), mean)
    from scipy.special import stdtrit

    deviation = hypot(*(value - mean for value in values)) / sqrt(n - 1)  # squares would overflow
    margin = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * deviation * sqrt(1 / n + share)
    return Sample(tuple(values), mean, deviation, (mean - margin, mean + margin))


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the two-sided p-value of equal means; None if a set has one run, or if nothing varies.

    Args:
        one, other: independent measurements [n], [m].
    """
    if len(one) < 2 or len(other) < 2:
        return None
    a, b = sample(one), sample(other)
    assert a.deviation is not None and b.deviation is not None
    errors = a.deviation / sqrt(len(one)), b.deviation / sqrt(len(other))
    total = hypot(*errors)
    if not 0 < total < inf:
        return None
    first, second = ((error / total) ** 4 for error in errors)  # a share of the total does not overflow
    degrees = 1 / (first / (len(one) - 1) + second / (len(other) - 1))
    return _two_sided((a.mean - b.mean) / total, degrees)


def paired(one: Sequence[float], other: Sequence[float], share: float = 0.0) -> float | None:
    """Return the two-sided p-value of equal means of pairs; None for one pair, or if all pairs differ by the same.

    Args:
        one, other: measurements of the same folds [n].
        share: as for `sample`; 0 is Student's paired test.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    if len(differences) < 2:
        return None
    difference = sample(differences)
    if not difference.deviation or not isfinite(difference.deviation):
        return None
    error = difference.deviation * sqrt(1 / len(differences) + share)
    return _two_sided(difference.mean / error, len(differences) - 1)


def _two_sided(t: float, degrees: float) -> float:
    from scipy.special import stdtr

    return 2 * float(stdtr(degrees, -abs(t)))


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Return p-values corrected for multiple comparisons by Holm's method.

    Args:
        p_values: p-values of single comparisons.
    """
    adjusted: dict[Hashable, float] = {}
    highest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - place)))
        adjusted[name] = highest
    return adjusted


def mark(p: float | None) -> str:
    """Return the mark of a p-value: ``≈`` not significant, ``*`` p < 0.05, ``**`` p < 0.01."""
    if p is None:
        return ""
    return "**" if p < ALPHA / 5 else "*" if p < ALPHA else "≈"
