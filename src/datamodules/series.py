"""A series of the user's: one column of a CSV file."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        """Return the column [N] in float64.

        Raises:
            UserError: if there is no such file or column, or naming the row of what is no number.
        """
        try:
            rows = list(csv.reader(self.path.read_text(encoding="utf-8-sig").splitlines()))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: this is no text in UTF-8 (byte {error.start})") from error
        except OSError as error:
            raise UserError(f"{self.path}: this file cannot be read: {error.strerror}") from error
        header = [cell.strip() for cell in rows[0]] if rows else []
        column = header[0] if self.column is None and len(header) == 1 else self.column
        if column is None or column not in header:
            raise UserError(f"datamodule.column={self.column or 'null'}: {nearest(self.column or '', header)}")
        place, values = header.index(column), []
        for number, row in enumerate(rows[1:], 2):
            if row:
                cell = row[place].strip() if place < len(row) else ""
                try:
                    values.append(float(cell))
                except ValueError:
                    raise UserError(f"{self.path}, row {number}, column {column}: '{cell}' is no number") from None
        series = torch.tensor(values, dtype=torch.float64)
        if not series.isfinite().all():
            first = int((~series.isfinite()).nonzero()[0])
            raise UserError(f"{self.path}, column {column}: value {first + 1} is {values[first]}")
        return series
