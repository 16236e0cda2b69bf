"""A function of one variable, sampled with noise: demonstrates universal approximation (textbook M7)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.resources import check_generated_size
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.splits.cross_validation import apply_fold
from src.datamodules.standardizer import StandardizedData, Standardizer

FUNCTIONS: dict[str, Callable[[NDArray], NDArray]] = {
    "sine": lambda x: np.sin(2 * np.pi * x),
    "chirp": lambda x: np.sin(2 * np.pi * x * np.abs(x)),  # the frequency rises with the distance from 0
    "absolute": np.abs,
    "runge": lambda x: 1 / (1 + 25 * x**2),
    "step": lambda x: np.where(x < 0, -1.0, 1.0),  # not continuous, so beyond the theorem: fits overshoot or smear
    "square": lambda x: np.where(np.mod(x, 1) < 0.5, 1.0, -1.0),
    "sawtooth": lambda x: 2 * np.mod(x, 1) - 1,
}
"""The available functions; periodic ones have period 1."""


class Function(StandardizedData):
    """Pairs of x and y = f(x) + noise. The test split is noise-free, with evenly spaced x.

    Args:
        function: a name from `FUNCTIONS`.
        range: the interval [low, high] of x.
        train_size, val_size, test_size: number of pairs; x of training and validation is drawn uniformly.
        noise: standard deviation of the Gaussian noise on y of training and validation.
        split_seed: seed of x and noise.
        common: arguments of `DataModule`.
    """

    task = "regression"
    inputs = "vector"
    supports_folds = True

    def __init__(
        self,
        function: str = "sine",
        range: Sequence[float] = (-1.0, 1.0),
        train_size: int = 200,
        val_size: int = 100,
        test_size: int = 500,
        noise: float = 0.1,
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.function = FUNCTIONS[function]
        self.range = (float(range[0]), float(range[1]))
        self.sizes = (train_size, val_size, test_size)
        self.noise = noise
        self.split_seed = split_seed

    def load(self) -> dict[str, Batch]:
        count = sum(self.sizes)  # float64 pairs, noise and copies
        check_generated_size(64 * count, f"datamodule.train_size, .val_size, .test_size: {count:,} pairs")
        generator = np.random.default_rng(self.split_seed)
        train, val, test = self.sizes
        drawn = {"train": generator.uniform(*self.range, train), "val": generator.uniform(*self.range, val)}
        noise = {name: self.noise * generator.standard_normal(len(x)) for name, x in drawn.items()}
        parts = {name: (x, self.function(x) + noise[name]) for name, x in drawn.items()}
        parts = apply_fold(parts, self.fold)
        grid = np.linspace(*self.range, test)
        parts["test"] = (grid, self.function(grid))
        if self.scale is None:
            self.scale = Standardizer.fit(_column(parts["train"][0]))
        return {name: LabelledBatch(self.scale.apply(_column(x)), _column(y).float()) for name, (x, y) in parts.items()}

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, (1,), (1,), feature_names=("x",), target_names=("y",))

    def points(self, name: str) -> tuple[NDArray, NDArray]:
        """Return x [N] in original units and y [N] of a split."""
        split = self.split(name)
        assert self.scale is not None
        return np.array([self.scale.undo(0, x) for x in split.inputs[0][:, 0].tolist()]), split.targets[:, 0].numpy()

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a number x, or a CSV file with one column."""
        assert self.scale is not None
        x = self.scale.apply(torch.tensor(read_rows(inputs, ("x",)), dtype=torch.float64))
        return LabelledBatch(x, torch.zeros(len(x), 1))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [f"{x:.9g}" for x in np.linspace(*self.range, self.sizes[2])[:count]]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"prediction": prediction["prediction"]["y"]} for prediction in predictions]


def _column(values: NDArray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)
