"""A series of the user's: one column of a CSV file."""

import csv
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.datamodules.records import read_text
from src.datamodules.windows import Windows
from src.errors import UserError, nearest


class Series(Windows):
    """One column of a CSV file, in the order of its rows; the header names the columns.

    Args:
        path: the file.
        column: the name of the column; None where the file has one only.
        rest: arguments of `Windows`.
    """

    too_short = "a longer series or smaller datamodule.window, .horizon"

    def __init__(self, path: Path, column: str | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.path, self.column = Path(path), column

    @property
    def series_name(self) -> str:
        return self.column or "x"

    def values(self) -> Tensor:
        return torch.tensor(self._column(self.path), dtype=torch.float64)

    def values_in(self, path: Path) -> list[float]:
        """Return the column of another file; one with a single column is taken whatever its name is."""
        single = "," not in read_text(path).split("\n")[0]
        return super().values_in(path) if single else self._column(path)

    def _column(self, path: Path) -> list[float]:
        """Return the column of a file.

        Raises:
            UserError: if there is no such file or column, or naming the row of what is no number.
        """
        rows = list(csv.reader(read_text(path).splitlines()))
        header = [cell.strip() for cell in rows[0]] if rows else []
        column = header[0] if self.column is None and len(header) == 1 else self.column
        if column is None or column not in header:
            raise UserError(f"{path}: datamodule.column={self.column or 'null'}: {nearest(self.column or '', header)}")
        place, values = header.index(column), []
        for number, row in enumerate(rows[1:], 2):
            if row:
                cell = row[place].strip() if place < len(row) else ""
                try:
                    values.append(float(cell))
                except ValueError:
                    raise UserError(f"{path}, row {number}, column {column}: '{cell}' is no number") from None
                if not math.isfinite(values[-1]):
                    raise UserError(f"{path}, row {number}, column {column}: '{cell}' is no finite number")
        return values
