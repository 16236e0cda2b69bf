"""Read rows of numbers from the command line or from files; errors name the file, row and column."""

import csv
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path

from src.core.errors import UserError
from src.datamodules.io.delimited_text import MAX_CELLS, check_table_memory, read_text

log = logging.getLogger(__name__)

MAX_VALUE = 1e30
"""Largest absolute value in data: larger numbers overflow float32, and sums of their squares overflow float64."""
FILE_ENDINGS = {".csv", ".txt", ".tsv", ".jsonl", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
"""File extensions by which an input is a path, even if there is no such file."""


def read_rows(inputs: Sequence[str], columns: Sequence[str] | int) -> list[list[float]]:
    """Read CSV rows or CSV files.

    Args:
        inputs: rows such as ``5.1,3.5`` or paths of CSV files, with or without a header. A header with all expected
            columns may have another order; any other header is ignored with a warning.
        columns: names of the expected columns, or their number.

    Raises:
        UserError: if a cell is not a number, or a row has too few or too many columns; names the file, row (counted from
            the first line, with a header) and column.
    """
    names = [f"column {i + 1}" for i in range(columns)] if isinstance(columns, int) else list(columns)
    rows = []
    for text in inputs:
        path = Path(text)
        if looks_like_file(text):
            rows += _read_file(path, names)
        elif "," not in text and len(names) > 1:
            raise UserError(f"'{_short(text)}' is neither a file nor a row of {len(names)} numbers")
        else:
            where = f"input '{_short(text)}'"
            rows.append(_numbers(next(iter(_cells([text], where)), []), names, where))
    return rows


def looks_like_file(text: str) -> bool:
    """Return whether an input is the path of a file; raise `UserError` for a path without a file."""
    if os.path.isfile(text):  # False, not an error, for a text that is not a valid path
        return True
    if Path(text).suffix.lower() in FILE_ENDINGS:
        raise UserError(f"{text}: there is no such file")
    return False


def is_file_path(text: str) -> bool:
    """Return whether an input is the path of a file; anything with white space that is not an existing file is a text."""
    return os.path.isfile(text) or (bool(text) and not any(map(str.isspace, text)) and looks_like_file(text))


def _read_file(path: Path, names: list[str]) -> list[list[float]]:
    text = read_text(path)
    rows_bound = text.count("\n")
    if (cells_bound := text.count(",") + rows_bound) > MAX_CELLS:
        raise UserError(f"{path}: this table has more than {MAX_CELLS:,} cells")
    check_table_memory(path, rows_bound, cells_bound)
    lines = _cells(text.splitlines(), str(path))
    numbered = [(n, cells) for n, cells in enumerate(lines, 1) if any(cell.strip() for cell in cells)]
    header = [] if not numbered or any(map(is_number, numbered[0][1])) else [c.strip() for c in numbered.pop(0)[1]]
    if not numbered:
        raise UserError(f"{path}: this file has no row of numbers")
    has_names = sorted(header) == sorted(names)
    if header and not has_names:
        log.warning(f"{path}: the header is ignored, columns are read in this order: {', '.join(names)}")
    columns = header if has_names else names
    rows = [_numbers(cells, columns, f"{path}, row {n}") for n, cells in numbered]
    order = [columns.index(name) for name in names]
    return [[row[i] for i in order] for row in rows]


def _cells(lines: Sequence[str], where: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"{where}: this is not valid CSV: {str(error).partition(' - ')[0]}") from error


def _numbers(cells: list[str], names: list[str], where: str) -> list[float]:
    if len(cells) != len(names):
        expected = "" if names[0] == "column 1" else f": {', '.join(names[:40])}"
        raise UserError(f"{where}: {len(cells)} columns where {len(names)} are expected{expected}")
    columns = enumerate(zip(cells, names, strict=True), 1)
    return [parse_number(cell, f"{where}, column {number} ({name})") for number, (cell, name) in columns]


def is_number(cell: str) -> bool:
    """Return whether a cell is a decimal number of at most `MAX_VALUE`, without underscores."""
    try:
        return abs(float(cell)) <= MAX_VALUE and "_" not in cell
    except ValueError:
        return False


def parse_number(cell: str, where: str, hint: str = "") -> float:
    """Return the number of a cell.

    Args:
        cell: a decimal number of at most `MAX_VALUE`, without underscores.
        where: the row and column, for error messages.
        hint: end of the error message.

    Raises:
        UserError: if the cell is not a number.
    """
    if is_number(cell):
        return float(cell)
    reason = "is not a number"
    with suppress(ValueError):
        reason = f"is not a number up to {MAX_VALUE:g}" if isfinite(float(cell)) else "is not a finite number"
    raise UserError(f"{where}: '{_short(cell)}' {reason}{hint}")


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."
