"""Standardisation that is fitted on training data and stored in the checkpoint."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.datamodules.base import DataModule
from src.datamodules.preparation import DamagedPreparation, numbers, part

ROUNDING = 1e-13
"""Ratio of deviation to mean up to which the deviation is rounding error only: a column of 99.9 has 3e-16."""


def or_one(deviation: float, mean: float) -> float:
    """Return the standard deviation of a column, or 1 if the column is constant."""
    return deviation if deviation > ROUNDING * abs(mean) else 1.0


@dataclass(frozen=True)
class Standardizer:
    """Maps columns to mean 0 and standard deviation 1.

    Args:
        mean, deviation: one number per column; a constant column has deviation 1 (`or_one`).
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def fit(cls, x: Tensor) -> "Standardizer":
        """Fit on training data [N, columns]."""
        means, deviations = x.double().mean(0).tolist(), x.double().std(0, correction=0).tolist()
        return cls(tuple(means), tuple(or_one(*pair) for pair in zip(deviations, means, strict=True)))

    def apply(self, x: Tensor) -> Tensor:
        """Standardise [..., columns]."""
        mean, deviation = (torch.tensor(row, dtype=torch.float64) for row in (self.mean, self.deviation))
        return ((x.double() - mean) / deviation).float()

    def undo(self, column: int, value: float) -> float:
        """Convert a standardised value of one column back to its original units."""
        return value * self.deviation[column] + self.mean[column]

    def to_plain(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Standardizer":
        """Restore a standardizer from the result of `to_plain`.

        Raises:
            UserError: if the state is damaged.
        """
        mean, deviation = numbers(plain, "mean"), numbers(plain, "deviation")
        if len(mean) != len(deviation) or not mean or not all(value > 0 for value in deviation):
            raise DamagedPreparation("means and deviations do not fit each other")
        return cls(mean, deviation)


class StandardizedData(DataModule):
    """Base class of datamodules whose only preparation is a `Standardizer` of the inputs.

    Args:
        common: arguments of `DataModule`.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.scale: Standardizer | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale.to_plain()} if self.scale else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.scale = Standardizer.from_plain(part(state_dict, "scale"))
