"""Rows of numbers, as a person types or stores them: read strictly, refused with file, row and column."""

import csv
import logging
import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from src.core.errors import UserError
from src.datamodules.io.delimited_text import MAX_CELLS, read_text

log = logging.getLogger(__name__)

LARGEST = 1e30
"""The largest number that data may hold: squares of larger ones are beyond 64 bits before long, and they beyond 32."""


def read_rows(inputs: Sequence[str], columns: Sequence[str] | int) -> list[list[float]]:
    """Read CSV rows, or files of them.

    Args:
        inputs: each a row such as ``5.1,3.5`` or the path of a CSV file, with a header or without. A header that names
            every column may do so in another order; any other header is passed over, with a warning.
        columns: the names of the expected columns, or their number.

    Raises:
        UserError: naming file, row (as an editor counts them, a header too) and column of what is no number, or a row
            with too few or too many.
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
    """Tell whether an input names a file; one that does not exist is refused."""
    if os.path.isfile(text):  # False, not an error, for a text that no file can be named by
        return True
    if Path(text).suffix.lower() in (
        ".csv",
        ".txt",
        ".tsv",
        ".jsonl",
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".gif",
        ".webp",
    ):
        raise UserError(f"{text}: there is no such file")
    return False


def names_a_file(text: str) -> bool:
    """Tell whether an input, which may be a text, names a file; a text has white space, and no ending of a file."""
    return os.path.isfile(text) or (bool(text) and not any(map(str.isspace, text)) and looks_like_file(text))


def _read_file(path: Path, names: list[str]) -> list[list[float]]:
    text = read_text(path)
    if text.count(",") + text.count("\n") > MAX_CELLS:
        raise UserError(f"{path}: this table has more than {MAX_CELLS:,} cells")
    lines = _cells(text.splitlines(), str(path))
    numbered = [(n, cells) for n, cells in enumerate(lines, 1) if any(cell.strip() for cell in cells)]
    header = [] if not numbered or any(map(is_number, numbered[0][1])) else [c.strip() for c in numbered.pop(0)[1]]
    if not numbered:
        raise UserError(f"{path}: there is no row of numbers in this file")
    named = sorted(header) == sorted(names)
    if header and not named:
        log.warning(f"{path}: the header is passed over, columns are read in this order: {', '.join(names)}")
    columns = header if named else names
    rows = [_numbers(cells, columns, f"{path}, row {n}") for n, cells in numbered]
    order = [columns.index(name) for name in names]
    return [[row[i] for i in order] for row in rows]


def _cells(lines: Sequence[str], where: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"{where}: this is no CSV: {str(error).partition(' - ')[0]}") from error


def _numbers(cells: list[str], names: list[str], where: str) -> list[float]:
    if len(cells) != len(names):
        listed = "" if names[0] == "column 1" else f": {', '.join(names[:40])}"
        raise UserError(f"{where}: {len(cells)} columns where {len(names)} are expected{listed}")
    for number, (cell, name) in enumerate(zip(cells, names, strict=True), 1):
        if not is_number(cell):
            raise UserError(f"{where}, column {number} ({name}): '{_short(cell)}' {what_it_is(cell)}")
    return [float(cell) for cell in cells]


def is_number(cell: str) -> bool:
    """Tell whether a cell holds a number as people write it, of at most `LARGEST`."""
    try:
        return abs(float(cell)) <= LARGEST and "_" not in cell
    except ValueError:
        return False


def what_it_is(cell: str) -> str:
    """Return what to say of a cell that is no number."""
    try:
        return "is no finite number" if not isfinite(float(cell)) else f"is no number up to {LARGEST:g}"
    except ValueError:
        return "is no number"


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."
