"""Read CSV, TSV and JSON lines files with named columns; errors name the file, row and column."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from src.core.errors import UserError, nearest
from src.core.escape import printable
from src.core.files import open_text_file
from src.core.resources import check_memory

MAX_TEXT_BYTES = 4 * 2**30
"""Largest text file that is read."""
MAX_LINES = 50_000_000
"""Largest number of lines of a text file with one example per line."""
MAX_COLUMNS = 100_000
"""Largest number of columns of a table."""
MAX_CELLS = 100_000_000
"""Largest number of cells of a table."""
ROW_BYTES, CELL_BYTES = 200, 60
"""Approximate memory of a row, and of each of its cells."""
ROWS_PER_CHECK = 100_000
"""Rows after which the memory is checked."""
CHUNK_BYTES = 1 << 20
"""Bytes per read."""
JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Return a text file in UTF-8, without a byte-order mark.

    Args:
        path: the file.
        limit: largest allowed size in bytes.

    Raises:
        UserError: if the file cannot be read, or is larger.
    """
    try:
        with open_text_file(path) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise UserError(f"{path}: this file has more than {limit / 2**20:,.0f} MiB")
            chunks = []
            while chunk := file.read(CHUNK_BYTES):
                if b"\0" in chunk:  # also stops early in a sparse file of gigabytes
                    raise UserError(f"{path}: this is not a text file: it contains NUL bytes")
                chunks.append(chunk)
        text = b"".join(chunks).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this file is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without line endings; see `read_text`.

    Raises:
        UserError: if the file cannot be read, or has more than `MAX_LINES` lines.
    """
    return split_lines(read_text(path), path)


def split_lines(text: str, path: Path | str) -> list[str]:
    """Return the lines of a text without line endings.

    Raises:
        UserError: if there are more than `MAX_LINES` lines.
    """
    if text.count("\n") >= MAX_LINES:
        raise UserError(f"{path}: this file has more than {MAX_LINES:,} lines")
    return text.split("\n")


def read_nonempty_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        UserError: if there is none, or if the file cannot be read; see `read_lines`.
    """
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise UserError(f"{path}: there is no text in this file")
    return lines


def read_columns(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the named columns of every row as stripped texts.

    The file extension determines the format: ``.jsonl``, ``.ndjson`` and ``.json`` have one object per line, ``.tsv`` is
    separated by tabs, any other file by commas. Tables have a header; quoted cells may contain separators and line
    endings.

    Raises:
        UserError: if a cell is missing or empty; names the file, the row (the number of its first line) and the column.
    """
    records = []
    for line, row in iterate_rows(path, columns):
        for column in columns:
            if column not in row:
                raise UserError(f"{path}, row {line}: there is no '{column}'. {nearest(column, row)}")
            if not row[column].strip():
                raise UserError(f"{path}, row {line}, column '{column}': this is empty")
        records.append(tuple(row[column].strip() for column in columns))
    if not records:
        raise UserError(f"{path}: there are no rows in this file")
    return records


def iterate_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the first line of each row, and its cells by column name.

    Args:
        path: see `read_columns`. Lists and objects in JSON lines are ignored.
        columns: columns that the header of a table must have.

    Raises:
        UserError: if the file cannot be read (names the file and the row), or exceeds `MAX_COLUMNS`, `MAX_CELLS` or the
            free memory.
    """
    cells = 0
    lines = _json_rows(path, columns) if path.suffix.lower() in JSON_LINES else _table_rows(path, columns)
    for count, (line, row) in enumerate(lines, 1):
        cells += len(row)
        if cells > MAX_CELLS:
            raise UserError(f"{path}: this table has more than {MAX_CELLS:,} cells")
        if count % ROWS_PER_CHECK == 0:
            check_table_memory(path, count, cells)
        yield line, row


def check_table_memory(path: Path, rows: int, cells: int) -> None:
    """Raise `UserError` if a table of this size does not fit into the free memory.

    While a table is read, this is the size so far: it then needs the same memory once more, as stripped texts or numbers.

    Args:
        path: the file.
        rows, cells: their numbers.
    """
    check_memory(rows * ROW_BYTES + cells * CELL_BYTES, f"{path}: {rows:,} rows of {cells:,} cells")


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            example = f" such as {delimiter.join(columns)}" if columns else ""
            raise UserError(f"{path}: this file is empty; it must begin with a header{example}")
        for column in columns:
            if column not in header:
                hints = [nearest(column, header)] if not set(",;\t|") & set(header[0]) else []
                if len(header) == 1:
                    hints.append(
                        f"Columns must be separated by {'tabs' if delimiter == chr(9) else 'commas'}; it has none."
                    )
                raise UserError(f"{path}: the header has no column '{column}'. {' '.join(hints)}")
        if len(header) > MAX_COLUMNS:
            raise UserError(f"{path}: the header has {len(header):,} columns; a table has at most {MAX_COLUMNS:,}")
        for column, count in Counter(header).items():
            if count > 1:
                raise UserError(f"{path}: the header names '{column}' more than once")
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    hint = "" if len(cells) < len(header) else "; a text that contains the separator must be quoted"
                    raise UserError(
                        f"{path}, row {line}: {len(cells)} columns where the header has {len(header)}{hint}"
                    )
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, row {line}: this is not valid CSV: {error}") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    names: set[str] = set()
    for line, text in enumerate(read_lines(path), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, row {line}, column {error.colno}: this is not valid JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, row {line}: this JSON cannot be read: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f'{path}, row {line}: a row must be an object, such as {{"text": "…", "label": "…"}}')
        names.update(row)
        if len(names) > MAX_COLUMNS:
            raise UserError(
                f"{path}, row {line}: more than {MAX_COLUMNS:,} columns up to this row; a table has at most {MAX_COLUMNS:,}"
            )
        nested = [key for key, value in row.items() if isinstance(value, dict | list)]
        if nested_columns := [key for key in nested if key in columns]:
            raise UserError(f"{path}, row {line}, column '{nested_columns[0]}': this is neither a text nor a number")
        yield (
            line,
            {printable(key): "" if row[key] is None else printable(str(row[key])) for key in row if key not in nested},
        )
