"""Electricity Transformer Temperature, a standard benchmark for long forecasts (Zhou et al. 2021)."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.io.delimited_text import read_text
from src.datamodules.io.downloads import PublicFile
from src.datamodules.io.numeric_table import is_number, looks_like_file, read_rows
from src.datamodules.preparation import part
from src.datamodules.standardizer import Standardizer
from src.tasks.naive_baseline import score_outputs

SERIES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
ROWS_PER_MONTH = {"h": 30 * 24, "m": 30 * 24 * 4}
MONTHS = {"train": 12, "val": 4, "test": 4}

_BASE = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
_SUMS = {
    "h1": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "h2": "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
    "m1": "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
    "m2": "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd",
}
FILES = {
    name: PublicFile(f"{_BASE}/ETT{name}.csv", f"ett/ETT{name}.csv", checksum, also=(f"ETT-small/ETT{name}.csv",))
    for name, checksum in _SUMS.items()
}


class ETT(DataModule):
    """Seven series, hourly (h1, h2) or every 15 minutes (m1, m2): the next `horizon` rows from `window` rows.

    The usual split: 12, 4 and 4 months of 30 days; the first validation and test windows start in the preceding split, so
    that the first forecast begins at the first row of the split. Series are standardised with the training split; metrics
    are on this scale, as in the literature.

    Args:
        variant: ``h1``, ``h2``, ``m1`` or ``m2``.
        window: number of input rows.
        horizon: number of rows to forecast, of all seven series.
        verify: reject files that differ from the published ones.
        common: arguments of `DataModule`.
    """

    task = "forecasting"
    inputs = "sequence"
    supports_folds = True

    def __init__(
        self, variant: str = "h1", window: int = 96, horizon: int = 96, verify: bool = True, **common: Any
    ) -> None:
        super().__init__(**common)
        self.variant, self.window, self.horizon, self.verify = variant, window, horizon, verify
        self.scale: Standardizer | None = None

    def load(self) -> dict[str, Batch]:
        values = torch.from_numpy(self._read())
        month = ROWS_PER_MONTH[self.variant[0]]
        ends = np.cumsum([months * month for months in MONTHS.values()])
        if len(values) < ends[-1]:
            raise UserError(f"{self._where()}: {len(values):,} rows, but the usual split needs {ends[-1]:,}")
        starts = [0, ends[0] - self.window, ends[1] - self.window]
        if self.fold is not None:
            starts[1], end = self.fold.blocks(ends[1])
            ends[:2] = starts[1], end
            if min(starts[1], end - starts[1]) < self.window + self.horizon:
                raise UserError(
                    f"cross_validation.folds={self.fold.of}: a block of {end - starts[1]} rows is too short for a window of "
                    f"{self.window} + {self.horizon}"
                )
        if self.scale is None:
            self.scale = Standardizer.fit(values[: ends[0]])
        values = self.scale.apply(values)
        if starts[1] < self.horizon or ends[1] - ends[0] < self.horizon:
            raise UserError(
                f"datamodule: window={self.window} and horizon={self.horizon} do not fit into the four months of a split"
            )
        return {
            name: self._windows(values[start:end])
            for name, start, end in zip(MONTHS, starts, ends.tolist(), strict=True)
        }

    def _windows(self, part: Tensor) -> LabelledBatch:
        windows = part.unfold(0, self.window + self.horizon, 1).transpose(1, 2)  # [N, window + horizon, 7]
        return LabelledBatch(windows[:, : self.window].contiguous(), windows[:, self.window :].contiguous())

    def _read(self) -> np.ndarray:
        """Return the seven series [rows, 7] float64."""
        contents = FILES[self.variant].read(self.data_dir, self.verify, self.write_dir)
        return _rows(contents.decode("utf-8-sig", errors="replace"), str(self._where()))

    def _where(self) -> Path:
        file = FILES[self.variant]
        return file.find(self.data_dir, self.write_dir) or self.write_dir / file.path

    @property
    def spec(self) -> DataSpec:
        shape = (self.window, len(SERIES)), (self.horizon, len(SERIES))
        return DataSpec(self.task, self.inputs, *shape, feature_names=SERIES, target_names=SERIES)

    def baseline(self) -> dict[str, float]:
        """Return the metrics of repeating the last row."""
        test = self.split("test")
        assert isinstance(test, LabelledBatch)
        return score_outputs(self.spec, test.x[:, -1:].expand_as(test.y), test.y)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a CSV file in the format of the data set, or rows of the seven series without date, separated by line
        breaks; the last rows are used.
        """
        assert self.scale is not None
        windows = []
        for text in inputs:
            if looks_like_file(text) and (contents := read_text(Path(text))).startswith("date,"):
                rows = _rows(contents, text).tolist()
            else:
                rows = read_rows(text.splitlines() or [text], SERIES)
            if len(rows) < self.window:
                raise UserError(f"'{text[:60]}': {len(rows)} rows, but the model needs {self.window}")
            windows.append(rows[-self.window :])
        x = self.scale.apply(torch.tensor(windows, dtype=torch.float64))
        return LabelledBatch(x, torch.zeros(len(x), self.horizon, len(SERIES)))

    def example_inputs(self, count: int = 3) -> list[str]:
        month = ROWS_PER_MONTH[self.variant[0]]
        first = (MONTHS["train"] + MONTHS["val"]) * month - self.window
        values = self._read()
        windows = [values[first + i : first + i + self.window] for i in range(count)]
        return ["\n".join(",".join(f"{v:.9g}" for v in row) for row in window) for window in windows]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        scale = self.scale
        assert scale is not None
        return [
            {
                "prediction": [
                    {name: scale.undo(i, value) for i, (name, value) in enumerate(zip(SERIES, step, strict=True))}
                    for step in prediction["prediction"]
                ]
            }
            for prediction in predictions
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale.to_plain()} if self.scale else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.scale = Standardizer.from_plain(part(state_dict, "scale"))


def _rows(text: str, where: str) -> np.ndarray:
    """Return the seven series [rows, 7] float64 of the contents of a file.

    Raises:
        UserError: if the columns differ, or a cell is not a number (names the row).
    """
    lines = csv.reader(io.StringIO(text))
    try:
        header = next(lines, [])
        if tuple(header[1:]) != SERIES:
            raise UserError(f"{where}: the columns must be date,{','.join(SERIES)}, not {','.join(header)[:80]}")
        rows = []
        for number, cells in enumerate(lines, 2):
            if len(cells) != 1 + len(SERIES) or not all(map(is_number, cells[1:])):
                raise UserError(f"{where}, row {number}: {len(SERIES)} numbers are expected after the date")
            rows.append([float(cell) for cell in cells[1:]])
    except csv.Error as error:
        raise UserError(f"{where}: this is not valid CSV: {error}") from error
    return np.array(rows)
