"""Columns of a table as numbers: what is fitted on training rows, and applied to any."""

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.resources import refuse_too_much
from src.datamodules.io.numeric_table import is_number, what_it_is
from src.datamodules.preparation import DamagedPreparation, flag, is_finite, part, text, texts
from src.datamodules.standardizer import or_one

log = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, str]]
"""Where a row stands, such as ``my.csv, row 3``, and its cells by column."""
MOST_VALUES = 1000
"""Different values of a category, beyond which it is rather a name or a text."""


@dataclass(frozen=True)
class Column:
    """One column of a table, as features.

    A number is standardised with mean and deviation of training; a missing one stands at the mean, and where training
    has missing ones, a feature of its own says so. A category has a feature for each value of training; a missing cell
    is a value like another.

    Args:
        name: in the header.
        values: of a category, in order; None for numbers.
        mean, deviation: of a number.
        missing: whether training has missing cells.
    """

    name: str
    values: tuple[str, ...] | None = None
    mean: float = 0.0
    deviation: float = 1.0
    missing: bool = False

    @classmethod
    def fit(cls, name: str, rows: Sequence[Row], category: bool, absent: Collection[str]) -> "Column":
        """Find out what a column of the training rows holds.

        Args:
            name: of the column.
            rows: of training.
            category: its numbers are names, such as post codes.
            absent: texts that stand for a missing cell.

        Raises:
            UserError: if it holds nothing, numbers with a few texts among them, or too many texts.
        """
        cells = [(where, row.get(name, "")) for where, row in rows]
        present = [(where, cell) for where, cell in cells if cell not in absent]
        if not present:
            raise UserError(
                f"column '{name}': every cell of training is missing; datamodule.ignore=[{name}] leaves it out"
            )
        missing = len(present) < len(cells)
        if category or not any(is_number(cell) for _, cell in present):
            counts = Counter(cell if cell not in absent else "" for _, cell in cells)
            if len(counts) > MOST_VALUES:
                raise UserError(
                    f"column '{name}' has {len(counts):,} different texts, more than the {MOST_VALUES:,} of a category: "
                    f"datamodule.ignore=[{name}] leaves it out"
                )
            return cls(name, tuple(sorted(counts)), missing=missing)
        numbers = [number_in(where, name, cell) for where, cell in present]
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        return cls(name, None, mean, or_one(deviation, mean), missing)

    @property
    def features(self) -> list[str]:
        """Return the names of its features."""
        if self.values is not None:
            return [f"{self.name}={value or '(missing)'}" for value in self.values]
        return [self.name, f"{self.name} is missing"] if self.missing else [self.name]

    def apply(self, where: str, cell: str, absent: Collection[str]) -> list[float]:
        """Return the features of a cell; a category's value that training lacks has none.

        Raises:
            UserError: naming the row of what is no number.
        """
        lost = cell in absent
        if self.values is not None:
            return [float(("" if lost else cell) == value) for value in self.values]
        number = 0.0 if lost else (number_in(where, self.name, cell) - self.mean) / self.deviation
        return [number, float(lost)] if self.missing else [number]


@dataclass(frozen=True)
class Columns:
    """Those columns of a table from which something is to be told.

    Args:
        columns: in the order of their features.
        absent: texts that stand for a missing cell.
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
        refuse_too_much(40 * len(rows) * width, f"{len(rows):,} rows of {width:,} features")  # as lists and as a tensor
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
            shown = ", ".join(sorted(cells)[:5]) + (", …" if len(cells) > 5 else "")
            log.warning(
                f"column '{name}': training lacks {shown or 'missing cells'}, which count as none of its values"
            )
        return torch.tensor(table, dtype=torch.float64).float()

    def to_plain(self) -> dict[str, Any]:
        columns = [{**asdict(column), "values": column.values and list(column.values)} for column in self.columns]
        return {"columns": columns, "absent": list(self.absent)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Columns":
        """Read back what `to_plain` wrote; `UserError` if it has been damaged since."""
        columns = part(plain, "columns")
        if not isinstance(columns, list):
            raise DamagedPreparation("'columns' is not a list")
        return cls(tuple(map(_column, columns)), texts(plain, "absent"))


def _column(plain: Any) -> Column:
    values = None if part(plain, "values") is None else texts(plain, "values")
    mean, deviation = part(plain, "mean"), part(plain, "deviation")
    if not is_finite(mean) or not is_finite(deviation) or deviation <= 0:
        raise DamagedPreparation("the mean of a column is not finite, or its deviation is not finite and positive")
    return Column(text(plain, "name"), values, mean, deviation, flag(plain, "missing"))


def number_in(where: str, column: str, cell: str) -> float:
    """Return the number in a cell.

    Raises:
        UserError: if it is none.
    """
    if not is_number(cell):
        raise UserError(
            f"{where}, column '{column}': '{cell[:60]}' {what_it_is(cell)}. If it stands for a missing one, add it to "
            f"datamodule.missing; if this column is a category, datamodule.categories=[{column}]"
        )
    return float(cell)
