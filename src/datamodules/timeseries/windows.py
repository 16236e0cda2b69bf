"""Windows of one or several time series, each with the values that follow it."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import check_memory
from src.datamodules.io.numeric_table import looks_like_file, read_rows
from src.datamodules.standardizer import StandardizedData, Standardizer
from src.tasks.naive_baseline import score_outputs


class Windows(StandardizedData):
    """Windows of series that are split in temporal order, without overlap, and standardised with the training split.

    A subclass implements `values`; `targets` are the series to forecast, `covariates` additional input series.

    Args:
        window: number of input values.
        horizon: number of values to forecast.
        val_fraction, test_fraction: shares of the series, at its end.
        common: arguments of `DataModule`.
    """

    task = "forecasting"
    inputs = "sequence"
    supports_folds = True
    too_short = "reduce datamodule.window, .horizon"
    """What to do if the series is too short, for error messages."""

    def __init__(
        self,
        window: int = 48,
        horizon: int = 12,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.window, self.horizon = window, horizon
        self.fractions = (val_fraction, test_fraction)

    targets: tuple[str, ...] = ("x",)
    covariates: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Source of the series, for error messages."""
        return "datamodule"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all input series, targets first."""
        return (*self.targets, *self.covariates)

    @abstractmethod
    def values(self) -> Tensor:
        """Return all series [N, series] float64."""

    def values_in(self, path: Path) -> list[list[float]]:
        """Return the rows of an input file of `predict`."""
        return read_rows([str(path)], self.names)

    def load(self) -> dict[str, Batch]:
        series = self.values()
        ranges = {"test": (0, len(series))} if self.whole else self.split_ranges(len(series))
        length = self.window + self.horizon
        shortest = min(end - start for start, end in ranges.values())
        if shortest < length:
            raise UserError(
                f"{self.where}: a split of {shortest} values is too short for a window of {self.window} + {self.horizon}; "
                f"{self.too_short}"
            )
        check_memory(
            4 * len(series) * length * series.size(1), f"{self.where}: {len(series):,} windows of {length:,} values"
        )
        if self.scale is None:
            self.scale = Standardizer.fit(series[slice(*ranges["train"])])
        series = self.scale.apply(series)
        splits: dict[str, Batch] = {}
        for name, (start, end) in ranges.items():
            windows = series[start:end].unfold(0, length, 1).transpose(1, 2)  # [N, window + horizon, series]
            targets = windows[:, self.window :, : len(self.targets)]
            splits[name] = LabelledBatch(windows[:, : self.window].contiguous(), targets.contiguous())
        return splits

    def split_ranges(self, count: int) -> dict[str, tuple[int, int]]:
        """Return start and end of each split in a series of `count` values."""
        val, test = (round(count * fraction) for fraction in self.fractions)
        start, end = count - val - test, count - test
        if self.fold is not None:
            start, end = self.fold.blocks(end)
        return {"train": (0, start), "val": (start, end), "test": (count - test, count)}

    @property
    def spec(self) -> DataSpec:
        input_shape, target_shape = (self.window, len(self.names)), (self.horizon, len(self.targets))
        features = self.names if len(self.names) > 1 else ()
        return DataSpec(
            self.task, self.inputs, input_shape, target_shape, feature_names=features, target_names=self.targets
        )

    def baseline(self) -> dict[str, float]:
        """Return the metrics of repeating the last values."""
        test = self.split("test")
        assert isinstance(test, LabelledBatch)
        return score_outputs(self.spec, test.x[:, -1:, : len(self.targets)].expand_as(test.y), test.y)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is the past of the series, of which the last values are used: a CSV file, or comma-separated values; for
        several series, such rows separated by line breaks.
        """
        assert self.scale is not None
        windows = []
        for text in inputs:
            if looks_like_file(text):
                values = self.values_in(Path(text))
            elif len(self.names) == 1:
                values = [[value] for value in read_rows([text], text.count(",") + 1)[0]]
            else:
                values = read_rows(text.splitlines(), self.names)
            if len(values) < self.window:
                unit = "values" if len(self.names) == 1 else "rows"
                raise UserError(f"'{text[:60]}': {len(values)} {unit}, but the model needs {self.window}")
            windows.append(values[-self.window :])
        x = self.scale.apply(torch.tensor(windows, dtype=torch.float64))
        return LabelledBatch(x, torch.zeros(len(x), self.horizon, len(self.targets)))

    def example_inputs(self, count: int = 3) -> list[str]:
        series = self.values()
        first, _ = self.split_ranges(len(series))["test"]
        rows = [",".join(f"{value:.9g}" for value in row) for row in series[first:].tolist()]
        separator = "," if len(self.names) == 1 else "\n"
        return [separator.join(rows[i : i + self.window]) for i in range(count)]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"prediction": [self._decode_step(step) for step in row["prediction"]]} for row in predictions]

    def _decode_step(self, step: Sequence[float]) -> float | dict[str, float]:
        """Return the forecast of one time in original units; for several series, by name."""
        assert self.scale is not None
        values = [self.scale.undo(i, value) for i, value in enumerate(step)]
        return values[0] if len(values) == 1 else dict(zip(self.targets, values, strict=True))
