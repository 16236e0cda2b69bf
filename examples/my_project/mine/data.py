from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import make_moons

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.datamodules.base import DataModule
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.splits.cross_validation import apply_fold


class Moons(DataModule):
    """Points of two interleaved half circles."""

    task = "binary_classification"
    inputs = "vector"
    supports_folds = True

    def __init__(self, size: int = 1000, noise: float = 0.2, **common: Any) -> None:
        super().__init__(**common)
        self.size, self.noise = size, noise

    def load(self) -> dict[str, Batch]:
        seeds = {"train": 1, "val": 2, "test": 3}
        return apply_fold({name: self._draw(seed) for name, seed in seeds.items()}, self.fold)

    def _draw(self, seed: int) -> Batch:
        points, labels = make_moons(self.size, noise=self.noise, random_state=seed)
        return LabelledBatch(torch.tensor(points, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32))

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, (2,), (), class_names=("upper", "lower"), feature_names=("x", "y"))

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a row such as ``0.5,-0.25``, or a CSV file of them."""
        points = torch.tensor(read_rows(inputs, ("x", "y")))
        return LabelledBatch(points, torch.zeros(len(points)))
