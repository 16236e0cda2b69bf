"""The Mackey-Glass series: a generated, chaotic benchmark for forecasting."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.resources import check_generated_size
from src.datamodules.timeseries.windows import Windows

_STEPS_PER_UNIT = 10
_TRANSIENT = 300


def mackey_glass(length: int, tau: int = 17) -> np.ndarray:
    """Integrate dx/dt = 0.2 x(t - τ) / (1 + x(t - τ)^10) - 0.1 x(t) by Runge-Kutta (Mackey and Glass 1977).

    Args:
        length: number of values, one per unit of time, after a transient of 300 units from x = 1.2.
        tau: delay in units of time; the series is chaotic for tau ≥ 17.

    Returns:
        [length] float64.
    """
    h = 1 / _STEPS_PER_UNIT
    delay = tau * _STEPS_PER_UNIT
    steps = (length + _TRANSIENT) * _STEPS_PER_UNIT
    x = [1.2] * (delay + 1)
    middles = [
        1.2
    ] * delay  # values half a step after each x; linear interpolation would reduce the order of the method to 2
    for t in range(delay, delay + steps):
        births = (x[t - delay], middles[t - delay], x[t - delay + 1])
        birth, half, next_birth = (0.2 * past / (1 + past**10) for past in births)
        now = x[t]
        k1 = birth - 0.1 * now
        k2 = half - 0.1 * (now + h / 2 * k1)
        k3 = half - 0.1 * (now + h / 2 * k2)
        k4 = next_birth - 0.1 * (now + h * k3)
        x.append(now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        middles.append((now + x[-1]) / 2 + h / 8 * (k1 - (next_birth - 0.1 * x[-1])))
    return np.array(x[delay + _TRANSIENT * _STEPS_PER_UNIT :: _STEPS_PER_UNIT][:length])


class MackeyGlass(Windows):
    """Windows of the generated series.

    Args:
        length: number of values of the series.
        tau: delay of the equation.
        rest: arguments of `Windows`.
    """

    too_short = "increase datamodule.length or reduce datamodule.window, .horizon"

    def __init__(self, length: int = 5000, tau: int = 17, **rest: Any) -> None:
        super().__init__(**rest)
        self.length, self.tau = length, tau

    def values(self) -> Tensor:
        steps = _STEPS_PER_UNIT * (self.length + self.tau + _TRANSIENT)  # of two Python numbers each
        windows = 4 * self.length * (self.window + self.horizon)
        check_generated_size(
            64 * steps + windows,
            f"datamodule.length={self.length}, .tau={self.tau}, .window={self.window}, .horizon={self.horizon}",
        )
        return torch.tensor(mackey_glass(self.length, self.tau)).unsqueeze(1)
