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
from src.datamodules.base import DataModule
from src.datamodules.io.numeric_table import looks_like_file, read_rows
from src.datamodules.preparation import part
from src.datamodules.standardizer import Standardizer
from src.tasks.naive_baseline import score_outputs


class Windows(DataModule):
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
    where = "datamodule"
    """Source of the series, for error messages."""

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
        self.scale: Standardizer | None = None

    targets: tuple[str, ...] = ("x",)
    covariates: tuple[str, ...] = ()

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
        if self.whole:
            self._refuse_short(len(series))
            assert self.scale is not None
            return {"test": self._windows(self.scale.apply(series))}
        val, test = (round(len(series) * fraction) for fraction in self.fractions)
        sizes = [len(series) - val - test, val, test]
        if self.fold is not None:
            start, end = self.fold.blocks(len(series) - test)
            sizes = [start, end - start, test]
            series = torch.cat((series[:end], series[len(series) - test :]))
        self._refuse_short(min(sizes))
        parts = dict(zip(("train", "val", "test"), series.split(sizes), strict=True))
        if self.scale is None:
            self.scale = Standardizer.fit(parts["train"])
        return {name: self._windows(self.scale.apply(part)) for name, part in parts.items()}

    def _refuse_short(self, size: int) -> None:
        if size < self.window + self.horizon:
            raise UserError(
                f"{self.where}: a split of {size} values is too short for a window of {self.window} + {self.horizon}; "
                f"{self.too_short}"
            )

    def _windows(self, part: Tensor) -> LabelledBatch:
        length, count = self.window + self.horizon, len(part)
        check_memory(4 * count * length * part.size(1), f"{self.where}: {count:,} windows of {length:,} values")
        windows = part.unfold(0, self.window + self.horizon, 1).transpose(1, 2)  # [N, window + horizon, series]
        targets = windows[:, self.window :, : len(self.targets)]
        return LabelledBatch(windows[:, : self.window].contiguous(), targets.contiguous())

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
                raise UserError(f"'{text[:60]}': {len(values)} values, but the model needs {self.window}")
            windows.append(values[-self.window :])
        x = self.scale.apply(torch.tensor(windows, dtype=torch.float64))
        return LabelledBatch(x, torch.zeros(len(x), self.horizon, len(self.targets)))

    def example_inputs(self, count: int = 3) -> list[str]:
        series = self.values().tolist()
        starts = range(len(series) - self.window - count, len(series) - self.window)
        separator = "," if len(self.names) == 1 else "\n"
        rows = [",".join(f"{value:.6f}" for value in row) for row in series]
        return [separator.join(rows[start : start + self.window]) for start in starts]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        scale = self.scale
        assert scale is not None
        if len(self.targets) == 1:
            return [{"prediction": [scale.undo(0, step[0]) for step in p["prediction"]]} for p in predictions]
        return [
            {
                "prediction": [
                    {name: scale.undo(i, value) for i, (name, value) in enumerate(zip(self.targets, step, strict=True))}
                    for step in p["prediction"]
                ]
            }
            for p in predictions
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale.to_plain()} if self.scale else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.scale = Standardizer.from_plain(part(state_dict, "scale"))
