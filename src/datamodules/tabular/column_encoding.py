"""Encode columns of a table as numbers: fitted on training rows, applied to any rows."""

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.resources import check_memory
from src.datamodules.io.numeric_table import invalid_number_reason, is_number
from src.datamodules.preparation import DamagedPreparation, flag, number, part, text, texts
from src.datamodules.standardizer import or_one

log = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, str]]
"""Location of a row, such as ``my.csv, row 3``, and its cells by column."""
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
    def fit(cls, name: str, rows: Sequence[Row], category: bool, absent: Collection[str]) -> "Column":
        """Determine the encoding of a column from training rows.

        Args:
            name: name of the column.
            rows: training rows.
            category: treat numbers as categories, for example post codes.
            absent: texts of missing cells.

        Raises:
            UserError: if all cells are missing, if numbers and texts are mixed, or if there are too many categories.
        """
        cells = [(where, row.get(name, "")) for where, row in rows]
        present = [(where, cell) for where, cell in cells if cell not in absent]
        if not present:
            raise UserError(
                f"column '{name}': all training cells are missing; exclude it with datamodule.ignore=[{name}]"
            )
        missing = len(present) < len(cells)
        if category or not any(is_number(cell) for _, cell in present):
            counts = Counter(cell if cell not in absent else "" for _, cell in cells)
            if len(counts) > MAX_CATEGORIES:
                raise UserError(
                    f"column '{name}' has {len(counts):,} different texts; a category has at most {MAX_CATEGORIES:,}. "
                    f"Exclude it with datamodule.ignore=[{name}]"
                )
            return cls(name, tuple(sorted(counts)), missing=missing)
        numbers = [parse_number(where, name, cell) for where, cell in present]
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        return cls(name, None, mean, or_one(deviation, mean), missing)

    @property
    def features(self) -> list[str]:
        """Names of the features of this column."""
        if self.values is not None:
            return [f"{self.name}={value or '(missing)'}" for value in self.values]
        return [self.name, f"{self.name} is missing"] if self.missing else [self.name]

    def apply(self, where: str, cell: str, absent: Collection[str]) -> list[float]:
        """Return the features of a cell; an unknown category becomes all zeros.

        Raises:
            UserError: if a cell of a numeric column is not a number; names the row.
        """
        is_missing = cell in absent
        if self.values is not None:
            return [float(("" if is_missing else cell) == value) for value in self.values]
        number = 0.0 if is_missing else (parse_number(where, self.name, cell) - self.mean) / self.deviation
        return [number, float(is_missing)] if self.missing else [number]


@dataclass(frozen=True)
class Columns:
    """The feature columns of a table.

    Args:
        columns: in the order of their features.
        absent: texts of missing cells.
    """

    columns: tuple[Column, ...]
    absent: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(feature for column in self.columns for feature in column.features)

    def apply(self, rows: Sequence[Row]) -> Tensor:
        """Return the features of rows [N, F]."""
        width = sum(len(column.features) for column in self.columns)
        check_memory(40 * len(rows) * width, f"{len(rows):,} rows of {width:,} features")  # as lists and as a tensor
        unknown: dict[str, set[str]] = {}
        table = []
        for where, row in rows:
            features: list[float] = []
            for column in self.columns:
                cell = row.get(column.name, "")
                features += column.apply(where, cell, self.absent)
                if column.values is not None and ("" if cell in self.absent else cell) not in column.values:
                    unknown.setdefault(column.name, set()).add(cell)
            table.append(features)
        for name, cells in unknown.items():
            listing = ", ".join(sorted(cells)[:5]) + (", …" if len(cells) > 5 else "")
            log.warning(
                f"column '{name}': values that did not occur in training match no category: {listing or 'missing cells'}"
            )
        return torch.tensor(table, dtype=torch.float64).float()

    def to_plain(self) -> dict[str, Any]:
        columns = [{**asdict(column), "values": column.values and list(column.values)} for column in self.columns]
        return {"columns": columns, "absent": list(self.absent)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Columns":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        columns = part(plain, "columns")
        if not isinstance(columns, list):
            raise DamagedPreparation("'columns' is not a list")
        return cls(tuple(map(_column, columns)), texts(plain, "absent"))


def _column(plain: Any) -> Column:
    values = None if part(plain, "values") is None else texts(plain, "values")
    mean, deviation = number(plain, "mean"), number(plain, "deviation")
    if deviation <= 0:
        raise DamagedPreparation("the deviation of a column is not positive")
    return Column(text(plain, "name"), values, mean, deviation, flag(plain, "missing"))


def parse_number(where: str, column: str, cell: str) -> float:
    """Return the number of a cell.

    Raises:
        UserError: if the cell is not a number.
    """
    if not is_number(cell):
        raise UserError(
            f"{where}, column '{column}': '{cell[:60]}' {invalid_number_reason(cell)}. If it means a missing value, add it to "
            f"datamodule.missing; if this column is categorical, set datamodule.categories=[{column}]"
        )
    return float(cell)
