"""Encode columns of a table as numbers: fitted on training rows, applied to any rows."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.resources import check_memory
from src.datamodules.io.numeric_table import is_number, parse_number
from src.datamodules.preparation import DamagedPreparation, flag, number, part, text, texts
from src.datamodules.standardizer import or_one

log = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, str]]
"""Location of a row, such as ``my.csv, row 3``, and its cells by column; a missing cell is empty."""
MAX_CATEGORIES = 1000
"""Largest number of values of a categorical column; a column with more is probably a name or a text."""


@dataclass(frozen=True)
class Column:
    """Encoding of one column.

    Numbers are standardised with the mean and standard deviation of training; a missing number becomes the mean, and if
    training has missing cells, an additional feature indicates them. A categorical column is one-hot encoded over the
    values of training; a missing cell is one of the values.

    Args:
        name: name of the column.
        values: sorted values of a categorical column; None for numbers.
        mean, deviation: statistics of a numeric column.
        missing: whether training has missing cells.
    """

    name: str
    values: tuple[str, ...] | None = None
    mean: float = 0.0
    deviation: float = 1.0
    missing: bool = False

    @classmethod
    def fit(cls, name: str, rows: Sequence[Row], category: bool) -> "Column":
        """Determine the encoding of a column from training rows.

        Args:
            name: name of the column.
            rows: training rows.
            category: treat numbers as categories, for example post codes.

        Raises:
            UserError: if all cells are missing, if numbers and texts are mixed, or if there are too many categories.
        """
        cells = [row.get(name, "") for _, row in rows]
        missing = "" in cells
        if not any(cells):
            raise UserError(
                f"column '{name}': all training cells are missing; exclude it with datamodule.ignore=[{name}]"
            )
        if category or not any(is_number(cell) for cell in cells):
            values = sorted(set(cells))
            if len(values) > MAX_CATEGORIES:
                raise UserError(
                    f"column '{name}' has {len(values):,} different texts; a category has at most {MAX_CATEGORIES:,}. "
                    f"Exclude it with datamodule.ignore=[{name}]"
                )
            return cls(name, tuple(values), missing=missing)
        numbers = [_parse_cell(row[name], where, name) for where, row in rows if row.get(name)]
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        return cls(name, None, mean, or_one(deviation, mean), missing)

    @property
    def features(self) -> list[str]:
        """Names of the features of this column."""
        if self.values is not None:
            return [f"{self.name}={value or '(missing)'}" for value in self.values]
        return [self.name, f"{self.name} is missing"] if self.missing else [self.name]

    def apply(self, rows: Sequence[Row]) -> Tensor:
        """Return the features of rows [N, features]; an unknown category becomes all zeros, with a warning.

        Raises:
            UserError: if a cell of a numeric column is not a number; names the row.
        """
        if self.values is None:
            numbers = [
                _parse_cell(row[self.name], where, self.name) if row.get(self.name) else None for where, row in rows
            ]
            scaled = [0.0 if number is None else (number - self.mean) / self.deviation for number in numbers]
            features = [scaled, [float(number is None) for number in numbers]] if self.missing else [scaled]
            return torch.tensor(features).T
        cells = [row.get(self.name, "") for _, row in rows]
        if unknown := sorted(set(cells) - set(self.values)):
            listing = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            log.warning(
                f"column '{self.name}': values that did not occur in training match no category: "
                f"{listing or 'missing cells'}"
            )
        return torch.tensor([[float(cell == value) for value in self.values] for cell in cells])


@dataclass(frozen=True)
class Columns:
    """The feature columns of a table, in the order of their features."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(feature for column in self.columns for feature in column.features)

    def apply(self, rows: Sequence[Row]) -> Tensor:
        """Return the features of rows [N, F]."""
        width = len(self.features)
        check_memory(40 * len(rows) * width, f"{len(rows):,} rows of {width:,} features")  # as lists and as a tensor
        return torch.cat([column.apply(rows) for column in self.columns], 1)

    def to_plain(self) -> dict[str, Any]:
        columns = [{**asdict(column), "values": column.values and list(column.values)} for column in self.columns]
        return {"columns": columns}

    @classmethod
    def from_plain(cls, plain: Any) -> "Columns":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        columns = part(plain, "columns")
        if not isinstance(columns, list):
            raise DamagedPreparation("'columns' is not a list")
        return cls(tuple(map(_column_from_plain, columns)))


def _column_from_plain(plain: Any) -> Column:
    values = None if part(plain, "values") is None else texts(plain, "values")
    mean, deviation = number(plain, "mean"), number(plain, "deviation")
    if deviation <= 0:
        raise DamagedPreparation("the deviation of a column is not positive")
    return Column(text(plain, "name"), values, mean, deviation, flag(plain, "missing"))


def _parse_cell(cell: str, where: str, column: str) -> float:
    hint = (
        ". If it means a missing value, add it to datamodule.missing; if this column is categorical, set "
        f"datamodule.categories=[{column}]"
    )
    return parse_number(cell, f"{where}, column '{column}'", hint)
