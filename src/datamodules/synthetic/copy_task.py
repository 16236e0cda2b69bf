"""The copy task (Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016): repeat symbols after a delay."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import check_generated_size
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import apply_fold
from src.tasks.tagging import IGNORE_INDEX

SYMBOLS = 8
BLANK, CALL = SYMBOLS, SYMBOLS + 1
"""Tokens after those of the symbols."""


class Copy(DataModule):
    """Sequences of symbols, `lag` blanks, a call token, and one blank per symbol; the targets there are the symbols in order.

    Earlier positions have no target. Guessing has an accuracy of 1/8.

    Args:
        lag: number of blanks between the last symbol and the call token.
        symbols: number of symbols to remember, each one of 8.
        train_size, val_size, test_size: number of sequences of each split.
        split_seed: the same seed draws the same sequences.
        common: arguments of `DataModule`.
    """

    task = "tagging"
    inputs = "tokens"
    supports_folds = True

    def __init__(
        self,
        lag: int = 20,
        symbols: int = 10,
        train_size: int = 6400,
        val_size: int = 500,
        test_size: int = 1000,
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.lag, self.symbols, self.split_seed = lag, symbols, split_seed
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}

    def load(self) -> dict[str, Batch]:
        count = sum(self.sizes.values())  # a token and a target of 8 bytes per step
        check_generated_size(
            16 * count * (self.lag + 2 * self.symbols + 1), f"datamodule.lag={self.lag} with {count:,} sequences"
        )
        generator = torch.Generator().manual_seed(self.split_seed)
        splits: dict[str, Batch] = {
            name: self._make_batch(torch.randint(SYMBOLS, (size, self.symbols), generator=generator))
            for name, size in self.sizes.items()
        }
        return apply_fold(splits, self.fold)

    def _make_batch(self, symbols: Tensor) -> LabelledBatch:
        x = self._sequences(symbols)
        y = torch.full_like(x, IGNORE_INDEX)
        y[:, -self.symbols :] = symbols
        return LabelledBatch(x, y)

    def _sequences(self, symbols: Tensor) -> Tensor:
        """Return the input sequences [N, 2 · symbols + lag + 1] of symbols [N, symbols]."""
        x = torch.full((len(symbols), self.spec.input_shape[0]), BLANK)
        x[:, : self.symbols] = symbols
        x[:, self.symbols + self.lag] = CALL
        return x

    @property
    def spec(self) -> DataSpec:
        length = 2 * self.symbols + self.lag + 1
        names = tuple(str(symbol) for symbol in range(1, SYMBOLS + 1))
        return DataSpec(self.task, self.inputs, (length,), (SYMBOLS,), vocabulary_size=SYMBOLS + 2, class_names=names)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is the symbols, as digits from 1 to 8: ``3141526782``."""
        for text in inputs:
            if len(text) != self.symbols or set(text) - set("12345678"):
                raise UserError(f"'{text[:60]}': {self.symbols} digits from 1 to {SYMBOLS} are expected")
        x = self._sequences(torch.tensor([[int(digit) - 1 for digit in text] for text in inputs]))
        return LabelledBatch(x, torch.zeros_like(x))

    def example_inputs(self, count: int = 3) -> list[str]:
        rows = self.split("test")[0][:count, : self.symbols] + 1
        return ["".join(map(str, row)) for row in rows.tolist()]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"prediction": "".join(prediction["prediction"].split()[-self.symbols :])} for prediction in predictions
        ]
