"""Electricity Transformer Temperature, a standard benchmark for long forecasts (Zhou et al. 2021)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError
from src.datamodules.io.delimited_text import iterate_rows, read_text
from src.datamodules.io.downloads import PublicFile
from src.datamodules.io.numeric_table import parse_number
from src.datamodules.timeseries.windows import Windows

SERIES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
ROWS_PER_MONTH = {"h": 30 * 24, "m": 30 * 24 * 4}

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


class ETT(Windows):
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

    targets = SERIES

    def __init__(
        self, variant: str = "h1", window: int = 96, horizon: int = 96, verify: bool = True, **common: Any
    ) -> None:
        super().__init__(window, horizon, **common)
        self.variant, self.verify = variant, verify

    @property
    def where(self) -> str:
        file = FILES[self.variant]
        return str(file.find(self.data_dir, self.write_dir) or self.write_dir / file.path)

    def values(self) -> Tensor:
        FILES[self.variant].read(self.data_dir, self.verify, self.write_dir)  # downloads and verifies the file
        return torch.tensor(_rows(Path(self.where)), dtype=torch.float64)

    def values_in(self, path: Path) -> list[list[float]]:
        """Return the rows of a file in the format of the data set, or of a table of the seven series without date."""
        return _rows(path) if read_text(path).startswith("date,") else super().values_in(path)

    def split_ranges(self, count: int) -> dict[str, tuple[int, int]]:
        month = ROWS_PER_MONTH[self.variant[0]]
        train_end, val_end, test_end = 12 * month, 16 * month, 20 * month
        if count < test_end:
            raise UserError(f"{self.where}: {count:,} rows, but the usual split needs {test_end:,}")
        if train_end < self.window + self.horizon or 4 * month < self.horizon:
            raise UserError(
                f"datamodule: window={self.window} and horizon={self.horizon} do not fit into the four months of a split"
            )
        val_start = train_end - self.window
        if self.fold is not None:
            train_end, val_end = self.fold.blocks(val_end)
            val_start = train_end
            if min(train_end, val_end - val_start) < self.window + self.horizon:
                raise UserError(
                    f"cross_validation.folds={self.fold.of}: a block of {val_end - val_start} rows is too short for a window "
                    f"of {self.window} + {self.horizon}"
                )
        return {
            "train": (0, train_end),
            "val": (val_start, val_end),
            "test": (16 * month - self.window, test_end),
        }


def _rows(path: Path) -> list[list[float]]:
    """Return the seven series of a file, row by row.

    Raises:
        UserError: if a column is missing, or a cell is not a number; names the row.
    """
    return [
        [parse_number(cells[name].strip(), f"{path}, row {line}, column {name}") for name in SERIES]
        for line, cells in iterate_rows(path, SERIES)
    ]
