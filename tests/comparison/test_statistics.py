"""Statistics of repeated runs equal those of scipy and the formulas of the papers."""

import numpy as np
import pytest
from scipy import stats

from src.comparison.statistics import holm, mark, paired, sample, welch

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_mean_deviation_and_interval_equal_scipy(n: int) -> None:
    values = RANDOM.normal(3, 2, n)
    result = sample(values.tolist())
    assert (result.mean, result.deviation) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert result.interval == pytest.approx(stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values)))


def test_the_interval_of_folds_is_wider() -> None:
    values, folds = RANDOM.normal(3, 2, 5), 5
    result = sample(values.tolist(), share=1 / (folds - 1))
    error = np.sqrt((1 / folds + 1 / (folds - 1)) * values.var(ddof=1))  # Nadeau and Bengio, 2003
    assert result.interval == pytest.approx(stats.t.interval(0.95, folds - 1, values.mean(), error))


def test_a_single_run_has_no_deviation() -> None:
    result = sample([0.5])
    assert (result.mean, result.deviation, result.interval, str(result)) == (0.5, None, None, "0.5")


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (20, 4)])
def test_welch_equals_scipy(n: int, m: int) -> None:
    one, other = RANDOM.normal(0, 1, n), RANDOM.normal(1, 3, m)
    expected = stats.ttest_ind(one, other, equal_var=False).pvalue
    assert welch(one.tolist(), other.tolist()) == pytest.approx(expected, rel=1e-10)


def test_a_test_needs_two_runs_that_vary() -> None:
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert paired([1.0], [2.0]) is None
    assert paired([1.0, 2.0], [2.0, 3.0]) is None


def test_paired_without_overlap_is_the_t_test() -> None:
    one, other = RANDOM.normal(0, 1, 6), RANDOM.normal(0.5, 1, 6)
    assert paired(one.tolist(), other.tolist()) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-10)


def test_folds_are_compared_as_nadeau_and_bengio_do() -> None:
    one, other, folds = RANDOM.normal(0, 1, 5), RANDOM.normal(0.5, 1, 5), 5
    d = one - other
    variance = (1 / folds + (1 / folds) / (1 - 1 / folds)) * d.var(ddof=1)  # of their corrected resampled t-test
    expected = 2 * stats.t.sf(abs(d.mean() / np.sqrt(variance)), folds - 1)
    result = paired(one.tolist(), other.tolist(), share=1 / (folds - 1))
    assert result == pytest.approx(expected, rel=1e-10)
    assert result is not None and result > stats.ttest_rel(one, other).pvalue, "overlapping folds are weaker evidence"


def test_holm_corrects_p_values() -> None:
    """The smallest of m p-values is multiplied by m, the next by m - 1, …; none falls below one that is smaller."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_bounds_the_family_wise_error() -> None:
    """Of equal sets, at most one in twenty families has a mark (Holm, 1979), within three standard deviations."""
    wrong = 0
    for _ in range(400):
        sets = RANDOM.normal(0, 1, (6, 4))
        p_values = {i: welch(sets[i].tolist(), sets[0].tolist()) or 1.0 for i in range(1, 6)}
        wrong += any(p < 0.05 for p in holm(p_values).values())
    assert wrong / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_marks() -> None:
    assert [mark(p) for p in (None, 0.5, 0.05, 0.049, 0.0099)] == ["", "≈", "≈", "*", "**"]


@pytest.mark.parametrize(
    ("values", "shown", "interval"),
    [
        ((0.1234, 0.1256), "0.1245 ± 0.0016", "[0.1105, 0.1385]"),
        ((120.0, 140.0), "130 ± 14", "[3, 257]"),
        ((1.0, 1.0), "1 ± 0", "[1, 1]"),
        ((1e-9, 3e-9), "2e-09 ± 1.414e-09", "[-1.071e-08, 1.471e-08]"),
    ],
)
def test_digits_are_those_of_the_standard_deviation(values: tuple[float, ...], shown: str, interval: str) -> None:
    result = sample(values)
    assert (str(result), result.shown_interval()) == (shown, interval)


@pytest.mark.parametrize("factor", [1e-310, 1e-170, 1e-100, 1e90, 1e200, 1e300])
def test_extreme_numbers_neither_overflow_nor_divide_by_zero(factor: float) -> None:
    one, other = [1.0, 2.0, 4.0], [3.0, 5.0]
    scaled = [factor * value for value in one], [factor * value for value in other]
    assert welch(*scaled) == pytest.approx(welch(one, other), rel=1e-3)
    assert sample(scaled[0]).deviation == pytest.approx(factor * np.std(one, ddof=1), rel=1e-3)
    assert paired(scaled[0], [0.0] * 3) == pytest.approx(paired(one, [0.0] * 3), rel=1e-3)
    largest = sample([1.7e308, -1.7e308, 1.7e308])
    assert np.isfinite(largest.mean) and welch([1.7e308, -1.7e308], [1.0, 2.0]) is None
