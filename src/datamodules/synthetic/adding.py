"""The adding problem (Hochreiter and Schmidhuber 1997): predict the sum of the two marked numbers of a sequence."""

from collections.abc import Sequence
from typing import Any

import torch

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import check_generated_size
from src.datamodules.base import DataModule
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.splits.cross_validation import apply_fold

FIRST_MARK_RANGE = 10
"""The first marked number is among this many first steps."""


class Adding(DataModule):
    """Sequences of numbers uniform in [0, 1], with one mark within the first 10 steps and one within the `lag` steps after.

    The target is the sum of the two marked numbers. The constant prediction 1 has a mean squared error of 1/6.

    Args:
        lag: number of steps after the first 10.
        train_size, val_size, test_size: number of sequences of each split.
        split_seed: the same seed draws the same sequences.
        common: arguments of `DataModule`.
    """

    task = "regression"
    inputs = "sequence"
    supports_folds = True

    def __init__(
        self,
        lag: int = 50,
        train_size: int = 6400,
        val_size: int = 500,
        test_size: int = 1000,
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.lag, self.split_seed = lag, split_seed
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}

    @property
    def length(self) -> int:
        return FIRST_MARK_RANGE + self.lag

    def load(self) -> dict[str, Batch]:
        count = sum(self.sizes.values())  # a value and a mark of 4 bytes per step, and a copy
        check_generated_size(16 * count * self.length, f"datamodule.lag={self.lag} with {count:,} sequences")
        generator = torch.Generator().manual_seed(self.split_seed)
        return apply_fold({name: self._draw(size, generator) for name, size in self.sizes.items()}, self.fold)

    def _draw(self, size: int, generator: torch.Generator) -> LabelledBatch:
        values = torch.rand(size, self.length, generator=generator)
        first = torch.randint(FIRST_MARK_RANGE, (size, 1), generator=generator)
        second = FIRST_MARK_RANGE + torch.randint(self.lag, (size, 1), generator=generator)
        marks = torch.zeros_like(values).scatter(1, first, 1.0).scatter(1, second, 1.0)
        return LabelledBatch(torch.stack((values, marks), -1), (values * marks).sum(1, keepdim=True))

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            self.task, self.inputs, (self.length, 2), (1,), feature_names=("value", "mark"), target_names=("sum",)
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a row of numbers with a star after the two marked ones: ``0.2,0.5*,0.9,0.1*,…``."""
        values, marks = [], []
        for text in inputs:
            cells = [cell.strip() for cell in text.split(",")]
            row = read_rows([",".join(cell.removesuffix("*") for cell in cells)], len(cells))[0]
            if len(row) != self.length:
                raise UserError(f"'{text[:60]}': {len(row)} numbers where {self.length} are expected")
            marked = [float(cell.endswith("*")) for cell in cells]
            if sum(marked) != 2:
                raise UserError(f"'{text[:60]}': {sum(marked):.0f} numbers are marked with a star; mark two")
            values.append(row)
            marks.append(marked)
        x = torch.stack((torch.tensor(values), torch.tensor(marks)), -1)
        return LabelledBatch(x, torch.zeros(len(x), 1))

    def example_inputs(self, count: int = 3) -> list[str]:
        rows = self.split("test")[0][:count].tolist()
        return [",".join(f"{value:.4f}" + "*" * int(mark) for value, mark in row) for row in rows]
