"""Scaling laws: the loss as a power law of one factor, with the others fixed (textbook, Scaling Laws; erratum E10)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.core.errors import UserError
from src.core.escape import mathtext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """loss = constant + factor · x^-exponent.

    Args:
        exponent: α.
        interval: 95 % confidence interval of the exponent.
        factor: A.
        deviation: standard deviation of log(loss) from the fit.
        constant: irreducible loss L∞; 0 for a fit without a constant.
        constant_interval: 95 % confidence interval of the constant; (0, 0) for a fit without a constant.
    """

    exponent: float
    interval: tuple[float, float]
    factor: float
    deviation: float
    constant: float = 0.0
    constant_interval: tuple[float, float] = (0.0, 0.0)

    def __call__(self, x: ArrayLike) -> Array:
        return self.constant + self.factor * np.asarray(x, dtype=np.float64) ** -self.exponent

    @property
    def has_constant(self) -> bool:
        """Whether the constant is significant: its interval excludes 0, and so does that of the exponent."""
        return self.constant_interval[0] > 0 and self.interval[0] > 0

    def __str__(self) -> str:
        low, high = self.interval
        constant = ""
        if self.constant_interval[1]:
            constant = f"; constant {self.constant_interval[0]:.3g} to {self.constant_interval[1]:.3g}"
        offset = f"{self.constant:.3g} + " if self.constant_interval[1] else ""
        return (
            f"loss = {offset}{self.factor:.3g} · x^{-self.exponent:.3f}   95 %: exponent {low:.3f} to {high:.3f}{constant}"
            f"   standard deviation {100 * self.deviation:.1f} %"
        )


def fit(x: ArrayLike, loss: ArrayLike) -> PowerLaw:
    """Fit loss = A·x^-α by least squares on the logarithms, with a confidence interval by Student's t.

    Args:
        x: sizes [n], such as numbers of parameters; at least three different ones.
        loss: losses [n], above 0.

    Raises:
        UserError: if there are too few sizes, or if a value is not positive.
    """
    from scipy.stats import linregress

    log_x, log_loss = _logarithms(x, loss, sizes=3)
    line = linregress(log_x, log_loss)
    degrees_of_freedom = len(log_x) - 2
    residuals = log_loss - line.intercept - line.slope * log_x
    return PowerLaw(
        exponent=-float(line.slope),
        interval=_interval(-float(line.slope), float(line.stderr), degrees_of_freedom),
        factor=float(np.exp(line.intercept)),
        deviation=float(np.sqrt(residuals @ residuals / degrees_of_freedom)),
    )


def fit_with_constant(x: ArrayLike, loss: ArrayLike) -> PowerLaw:
    """Fit loss = L∞ + A·x^-α, L∞ ≥ 0, by least squares of the relative errors; the confidence intervals are from the
    linearisation at the optimum.

    For a fixed exponent, the law is linear in L∞ and A, so that only the exponent is searched.

    Args:
        x: sizes [n]; at least four different ones.
        loss: losses [n], above 0.

    Raises:
        UserError: if there are too few sizes, or if a value is not positive.
    """
    from scipy.optimize import minimize_scalar

    log_x, log_loss = _logarithms(x, loss, sizes=4)
    middle, inverse = log_x.mean(), np.exp(-log_loss)

    def solve_linear(exponents: ArrayLike) -> tuple[Array, Array, Array]:
        """Return L∞, the factor at the mean log size, and the sum of squares for each exponent."""
        powers = np.exp(-np.multiply.outer(exponents, log_x - middle)) * inverse
        aa, ab, bb = inverse @ inverse, powers @ inverse, (powers**2).sum(-1)
        a, b = inverse.sum(), powers.sum(-1)
        constant = np.maximum((bb * a - ab * b) / (aa * bb - ab**2), 0.0)
        factor = (b - constant * ab) / bb
        residuals = 1 - np.multiply.outer(constant, inverse) - factor[..., None] * powers
        return constant, factor, (residuals**2).sum(-1)

    grid = np.geomspace(0.01, 10, 1000)
    best = int(solve_linear(grid)[2].argmin())
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    exponent = float(minimize_scalar(lambda e: solve_linear(e)[2], bounds=bounds, options={"xatol": 1e-12}).x)
    constant, factor, squares = map(float, solve_linear(exponent))
    powers = np.exp(-exponent * (log_x - middle))
    slopes = np.stack([np.ones_like(powers), powers, -factor * powers * (log_x - middle)], 1) * inverse[:, None]
    degrees_of_freedom = len(log_x) - 3
    errors = np.sqrt(squares / degrees_of_freedom * np.diag(np.linalg.inv(slopes.T @ slopes)))
    low, high = _interval(constant, float(errors[0]), degrees_of_freedom)
    return PowerLaw(
        exponent=exponent,
        interval=_interval(exponent, float(errors[2]), degrees_of_freedom),
        factor=float(factor * np.exp(exponent * middle)),
        deviation=float(np.sqrt(squares / degrees_of_freedom)),
        constant=constant,
        constant_interval=(max(low, 0.0), high),
    )


def draw(x: Sequence[float], loss: Sequence[float], laws: Sequence[PowerLaw], name: str, metric: str) -> "Figure":
    """Plot the points and the fitted laws on logarithmic axes.

    Args:
        x: sizes [n].
        loss: losses [n].
        laws: the fitted laws.
        name: label of the sizes.
        metric: label of the losses.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(x, loss, "o", color="black", label="runs")
    line = np.geomspace(min(x), max(x), 200)
    for law, style in zip(laws, ("-", "--"), strict=False):
        low, high = law.interval
        constant = f"{law.constant:.3g} + " if law.constant_interval[1] else ""
        label = f"{constant}{law.factor:.3g} · x^{-law.exponent:.3f}  (95 %: {low:.3f} to {high:.3f})"
        axes.plot(line, law(line), style, label=label)
    axes.set_xlabel(mathtext(name))
    axes.set_ylabel(mathtext(metric))
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    return figure


def _interval(value: float, error: float, degrees_of_freedom: int) -> tuple[float, float]:
    from scipy.stats import t

    margin = float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom)) * error
    return float(value) - float(margin), float(value) + float(margin)


def _logarithms(x: ArrayLike, loss: ArrayLike, sizes: int) -> tuple[Array, Array]:
    x, loss = np.asarray(x, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    assert x.ndim == 1 and x.shape == loss.shape
    if len(np.unique(x)) < sizes:
        raise UserError(f"a fit needs at least {sizes} different sizes, and there are {len(np.unique(x))}")
    if not (np.isfinite(x).all() and np.isfinite(loss).all() and (x > 0).all() and (loss > 0).all()):
        raise UserError("a power law requires sizes and losses above 0")
    return np.log(x), np.log(loss)
