"""The Mackey-Glass series, a chaotic benchmark of forecasting that is generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.batches import Batch, LabelledBatch
from src.datamodules.base import DataModule
from src.datamodules.baselines import scores
from src.datamodules.rows import looks_like_file, read_rows
from src.datamodules.standardizing import Standardizer
from src.errors import UserError
from src.spec import DataSpec

_STEPS_A_UNIT = 10
_TRANSIENT = 300


def mackey_glass(length: int, tau: int = 17) -> np.ndarray:
    """Integrate dx/dt = 0.2 x(t - τ) / (1 + x(t - τ)^10) - 0.1 x(t) by Runge-Kutta (Mackey and Glass 1977).

    Args:
        length: values to return, one a unit of time, after a transient of 300 units from x = 1.2.
        tau: the delay in units of time; chaotic from 17 on.

    Returns:
        [length] float64.
    """
    h = 1 / _STEPS_A_UNIT
    delay = tau * _STEPS_A_UNIT
    steps = (length + _TRANSIENT) * _STEPS_A_UNIT
    x = [1.2] * (delay + 1)
    middles = [1.2] * delay  # half a step after each x: a linear one would lower the order of the method to 2
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
    return np.array(x[delay + _TRANSIENT * _STEPS_A_UNIT :: _STEPS_A_UNIT][:length])


class MackeyGlass(DataModule):
    """Windows of the series, each with the values that follow it; split in order of time, without overlap.

    Args:
        length: values of the series.
        window: values that a model sees.
        horizon: values that it forecasts.
        tau: delay of the equation.
        val_fraction, test_fraction: shares of the series, its end.
        common: arguments of `DataModule`.
    """

    task = "forecasting"
    inputs = "sequence"

    def __init__(
        self,
        length: int = 5000,
        window: int = 48,
        horizon: int = 12,
        tau: int = 17,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.length, self.window, self.horizon, self.tau = length, window, horizon, tau
        self.fractions = (val_fraction, test_fraction)
        self.scale: Standardizer | None = None

    def load(self) -> dict[str, Batch]:
        series = torch.tensor(mackey_glass(self.length, self.tau)).unsqueeze(1)
        val, test = (round(self.length * fraction) for fraction in self.fractions)
        sizes = [self.length - val - test, val, test]
        if (shortest := min(sizes)) < self.window + self.horizon:
            raise UserError(
                f"datamodule: a split of {shortest} values holds no window of {self.window} + {self.horizon}; "
                "give a larger datamodule.length or smaller datamodule.window, .horizon"
            )
        parts = dict(zip(("train", "val", "test"), series.split(sizes), strict=True))
        if self.scale is None:
            self.scale = Standardizer.fit(parts["train"])
        return {name: self._windows(self.scale.apply(part)) for name, part in parts.items()}

    def _windows(self, part: Tensor) -> LabelledBatch:
        windows = part.unfold(0, self.window + self.horizon, 1).transpose(1, 2)  # [N, window + horizon, 1]
        return LabelledBatch(windows[:, : self.window].contiguous(), windows[:, self.window :].contiguous())

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, (self.window, 1), (self.horizon, 1), target_names=("x",))

    def baseline(self) -> dict[str, float]:
        """Return the scores of repeating the last value."""
        test = self.split("test")
        assert isinstance(test, LabelledBatch)
        return scores(self.spec, test.x[:, -1:].expand_as(test.y), test.y)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is the past as comma-separated values or a CSV file of one column; its last values are taken."""
        assert self.scale is not None
        windows = []
        for text in inputs:
            if looks_like_file(text):
                values = [row[0] for row in read_rows([str(Path(text))], ["x"])]
            else:
                values = read_rows([text], text.count(",") + 1)[0]
            if len(values) < self.window:
                raise UserError(f"'{text[:60]}': {len(values)} values, and the model sees {self.window}")
            windows.append(values[-self.window :])
        x = self.scale.apply(torch.tensor(windows, dtype=torch.float64).unsqueeze(-1))
        return LabelledBatch(x, torch.zeros(len(x), self.horizon, 1))

    def example_inputs(self, count: int = 3) -> list[str]:
        series = mackey_glass(self.length, self.tau)
        starts = range(self.length - self.window - count, self.length - self.window)
        return [",".join(f"{value:.6f}" for value in series[s : s + self.window]) for s in starts]

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.scale is not None
        return [{"prediction": [self.scale.undo(0, step[0]) for step in a["prediction"]]} for a in answers]

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale.to_plain()} if self.scale else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.scale = Standardizer.from_plain(state_dict["scale"])
