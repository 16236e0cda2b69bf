"""Series of the user's: columns of a table, in order of time."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError, nearest
from src.datamodules.io.delimited_text import read_text, rows_of
from src.datamodules.io.numeric_table import is_number, what_it_is
from src.datamodules.timeseries.windows import Windows


class Series(Windows):
    """Columns of a table (CSV, TSV or JSON lines), in the order of its rows; the header names the columns.

    Args:
        path: the file.
        column: the name of the column to forecast, or a list of them; None where the file has one column only.
        covariates: columns that a model sees beside them.
        time_column: holds dates (ISO 8601) or numbers, which must rise from row to row; None trusts the order.
        rest: arguments of `Windows`.
    """

    too_short = "a longer series or smaller datamodule.window, .horizon"

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
        self.where = str(path)
        self.named = column is not None
        if column is not None:
            self.targets = (column,) if isinstance(column, str) else tuple(column)
        self.covariates = tuple(covariates)
        self.time_column = time_column

    def values(self) -> Tensor:
        return torch.tensor(self._rows(self.path), dtype=torch.float64)

    def values_in(self, path: Path) -> list[list[float]]:
        """Return the columns of another file; of one series, a single column is taken whatever its name is."""
        single = "," not in read_text(path).split("\n")[0] and len(self.names) == 1
        return super().values_in(path) if single else self._rows(path)

    def _rows(self, path: Path) -> list[list[float]]:
        """Return the series of a file, row by row.

        Raises:
            UserError: if there is no such file or column, or naming the row of what is no number, or of a time that does
                not rise.
        """
        rows: list[list[float]] = []
        before = -math.inf
        names: Sequence[str] = ()
        for line, cells in rows_of(path, self.targets if self.named else ()):
            names = names or self._columns(path, list(cells))
            where = f"{path}, row {line}, column"
            if self.time_column is not None:
                now = _moment(text := cells.get(self.time_column, "").strip(), f"{where} {self.time_column}")
                if now <= before:
                    raise UserError(f"{where} {self.time_column}: '{text}' is not later than the row before")
                before = now
            rows.append([_number(cells.get(name, "").strip(), f"{where} {name}") for name in names])
        if not rows:
            raise UserError(f"{path}: there are no rows in this file")
        return rows

    def _columns(self, path: Path, header: list[str]) -> Sequence[str]:
        """Return the columns of the series in a file, whose header has them and the time."""
        if not self.named and len(header) == len(self.names) == 1 and self.time_column is None:
            return header
        wanted = [("column", name) for name in (self.targets if self.named else ("",))]
        wanted += [("covariates", name) for name in self.covariates]
        wanted += [("time_column", self.time_column)] if self.time_column is not None else []
        for key, name in wanted:
            if name not in header:
                raise UserError(f"{path}: datamodule.{key}={name or 'null'}: {nearest(name, header)}")
        return self.names


def _number(text: str, where: str) -> float:
    if not is_number(text):
        raise UserError(f"{where}: '{text[:60]}' {what_it_is(text)}")
    return float(text)


def _moment(text: str, where: str) -> float:
    """Return a date, or a number, as a number that rises with time."""
    try:
        if math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (
            moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        ).timestamp()  # no summer time where none is named
    except ValueError:
        raise UserError(
            f"{where}: '{text}' is neither a date such as 2026-01-31 or 2026-01-31T12:00 nor a number"
        ) from None
