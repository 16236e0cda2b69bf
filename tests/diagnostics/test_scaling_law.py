"""Scaling laws: fits recover known exponents, and confidence intervals have the stated coverage."""

import numpy as np
import pytest
from scipy import optimize, stats

from src.core.errors import UserError
from src.diagnostics.scaling_law import draw, fit, fit_with_constant

SIZES = np.geomspace(1e3, 1e6, 8)


def noise(seed: int, deviation: float) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, deviation, len(SIZES)))


@pytest.mark.req("T8")
@pytest.mark.parametrize("exponent", [0.07, 0.5, 1.3])
def test_exact_laws_are_recovered(exponent: float) -> None:
    law = fit(SIZES, 3 * SIZES**-exponent)
    assert (law.exponent, law.factor) == (pytest.approx(exponent, rel=1e-9), pytest.approx(3, rel=1e-9))
    assert law.deviation < 1e-9 and law(1e4) == pytest.approx(3 * 1e4**-exponent)
    whole = fit_with_constant(SIZES, 0.7 + 30 * SIZES**-exponent)
    assert whole.exponent == pytest.approx(exponent, rel=1e-4)
    assert whole.constant == pytest.approx(0.7, rel=1e-4) and whole.factor == pytest.approx(30, rel=1e-3)
    assert whole.has_constant


@pytest.mark.req("T8")
def test_intervals_contain_the_exponent_in_19_of_20_cases() -> None:
    """400 noisy sweeps each; 20 ± 4 intervals are expected to miss the exponent."""
    plain = [fit(SIZES, 5 * SIZES**-0.3 * noise(seed, 0.05)) for seed in range(400)]
    assert 8 <= sum(not law.interval[0] <= 0.3 <= law.interval[1] for law in plain) <= 32
    whole = [fit_with_constant(SIZES, (0.5 + 50 * SIZES**-0.4) * noise(seed, 0.02)) for seed in range(400)]
    assert 8 <= sum(not law.interval[0] <= 0.4 <= law.interval[1] for law in whole) <= 36
    assert sum(law.has_constant for law in whole) > 380


@pytest.mark.req("T8")
@pytest.mark.parametrize("seed", range(3))
def test_a_fit_with_a_constant_equals_that_of_scipy(seed: int) -> None:
    """The same least squares of relative errors by another algorithm, with Student's t of n - 3 degrees of freedom."""
    loss = (0.5 + 50 * SIZES**-0.4) * noise(seed, 0.02)
    law = fit_with_constant(SIZES, loss)

    def power_law(x: np.ndarray, constant: float, factor: float, exponent: float) -> np.ndarray:
        return constant + factor * x**-exponent

    parameters, covariance = optimize.curve_fit(power_law, SIZES, loss, (0.5, 50, 0.4), sigma=loss)
    np.testing.assert_allclose([law.constant, law.factor, law.exponent], parameters, rtol=1e-4)
    margins = stats.t.ppf(0.975, len(SIZES) - 3) * np.sqrt(np.diag(covariance))
    for interval, value, margin in zip(
        (law.constant_interval, law.interval), (parameters[0], parameters[2]), (margins[0], margins[2]), strict=True
    ):
        np.testing.assert_allclose(interval, (max(value - margin, 0), value + margin), rtol=1e-3)


@pytest.mark.req("T8")
def test_no_constant_is_reported_for_laws_without_one() -> None:
    laws = [fit_with_constant(SIZES, 5 * SIZES**-0.3 * noise(seed, 0.05)) for seed in range(400)]
    assert sum(law.has_constant for law in laws) <= 32


def test_repeated_sizes_narrow_the_interval() -> None:
    losses = [SIZES**-0.3 * noise(seed, 0.1) for seed in range(9)]
    once = np.mean([np.ptp(fit(SIZES, loss).interval) for loss in losses])
    assert np.ptp(fit(np.tile(SIZES, 9), np.concatenate(losses)).interval) < 0.5 * once


def test_too_few_sizes_and_negative_losses_are_rejected() -> None:
    with pytest.raises(UserError, match="at least 3 different sizes, and there are 2"):
        fit([1.0, 2.0, 2.0], [3.0, 2.0, 2.0])
    with pytest.raises(UserError, match="above 0"):
        fit([1.0, 2.0, 3.0], [3.0, 2.0, -1.0])


def test_the_law_is_plotted_through_the_points_on_logarithmic_axes() -> None:
    loss = 5 * SIZES**-0.3
    figure = draw(SIZES.tolist(), loss.tolist(), [fit(SIZES, loss)], "parameters", "val/loss")
    (axes,) = figure.axes
    points, line = axes.get_lines()
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_allclose(points.get_xydata(), np.stack([SIZES, loss], 1))
    np.testing.assert_allclose(line.get_ydata(), 5 * line.get_xdata() ** -0.3, rtol=1e-9)
    assert "x^-0.300" in str(line.get_label())


def test_a_growing_loss_is_printed_without_a_double_sign() -> None:
    loss = 5 * SIZES**0.2
    law = fit(SIZES, loss)
    figure = draw(SIZES.tolist(), loss.tolist(), [law], "parameters", "val/loss")
    assert "x^0.200" in str(law) and "x^0.200" in str(figure.axes[0].get_lines()[1].get_label())
