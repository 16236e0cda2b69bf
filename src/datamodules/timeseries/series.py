"""Time series of the user: columns of a table in temporal order."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError, nearest
from src.datamodules.io.delimited_text import iterate_rows, read_text
from src.datamodules.io.numeric_table import parse_number
from src.datamodules.timeseries.windows import Windows


class Series(Windows):
    """Columns of a table (CSV, TSV or JSON lines) whose rows are in temporal order; the header has the column names.

    Args:
        path: the file.
        column: name of the column to forecast, or a list of names; None if the file has only one column.
        covariates: additional input columns.
        time_column: column of dates (ISO 8601) or numbers, which must increase from row to row; None: the order is not
            checked.
        rest: arguments of `Windows`.
    """

    too_short = "use a longer series or reduce datamodule.window, .horizon"

    def __init__(
        self,
        path: Path,
        column: str | Sequence[str] | None = None,
        covariates: Sequence[str] = (),
        time_column: str | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.path = Path(path)
        self.has_column_names = column is not None
        if column is not None:
            self.targets = (column,) if isinstance(column, str) else tuple(column)
        self.covariates = tuple(covariates)
        self.time_column = time_column

    @property
    def where(self) -> str:
        return str(self.path)

    def values(self) -> Tensor:
        return torch.tensor(self._rows(self.path), dtype=torch.float64)

    def values_in(self, path: Path) -> list[list[float]]:
        """Return the columns of another file; for a single series, a single column of any name is accepted."""
        single = "," not in read_text(path).split("\n")[0] and len(self.names) == 1
        return super().values_in(path) if single else self._rows(path)

    def _rows(self, path: Path) -> list[list[float]]:
        """Return the series of a file, row by row.

        Raises:
            UserError: if there is no such file or column, if a cell is not a number, or if the time does not increase; names
                the row.
        """
        rows: list[list[float]] = []
        previous = -math.inf
        names: Sequence[str] = ()
        for line, cells in iterate_rows(path, self.targets if self.has_column_names else ()):
            names = names or self._columns(path, list(cells))
            where = f"{path}, row {line}, column"
            if self.time_column is not None:
                time = _parse_time(text := cells.get(self.time_column, "").strip(), f"{where} {self.time_column}")
                if time <= previous:
                    raise UserError(f"{where} {self.time_column}: '{text}' is not later than in the previous row")
                previous = time
            rows.append([parse_number(cells.get(name, "").strip(), f"{where} {name}") for name in names])
        if not rows:
            raise UserError(f"{path}: there are no rows in this file")
        return rows

    def _columns(self, path: Path, header: list[str]) -> Sequence[str]:
        """Return the names of the columns of the series in a file; check that the header has them and the time column."""
        if not self.has_column_names and len(header) == len(self.names) == 1 and self.time_column is None:
            return header
        required = [("column", name) for name in (self.targets if self.has_column_names else ("",))]
        required += [("covariates", name) for name in self.covariates]
        required += [("time_column", self.time_column)] if self.time_column is not None else []
        for key, name in required:
            if name not in header:
                raise UserError(f"{path}: datamodule.{key}={name or 'null'}: {nearest(name, header)}")
        return self.names


def _parse_time(text: str, where: str) -> float:
    """Convert a date or a number to a float that increases with time."""
    try:
        if math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)  # no daylight saving time
        return moment.timestamp()
    except ValueError:
        raise UserError(
            f"{where}: '{text}' is neither a date such as 2026-01-31 or 2026-01-31T12:00 nor a number"
        ) from None
