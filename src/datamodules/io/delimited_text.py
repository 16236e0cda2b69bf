"""Tables of texts, as people keep them: CSV, TSV or JSON lines with named columns, refused with file, row and column."""

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

MAX_TEXT_BYTES = 4 * 2**30
"""The largest text that is read as a whole."""
MAX_LINES = 50_000_000
"""The most lines of a text, a line of which is an example."""
MAX_COLUMNS = 100_000
"""The most columns of a table."""
MAX_CELLS = 100_000_000
"""The most cells of a table."""
PIECE = 1 << 20
"""Bytes that are read at once."""
JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Return a text file in UTF-8, without a byte-order mark.

    Args:
        path: the file.
        limit: the most bytes that it may have.

    Raises:
        UserError: if it cannot be read, or is larger.
    """
    try:
        with open_text_file(path) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise UserError(f"{path}: this file has more than {limit / 2**20:,.0f} MiB")
            parts = []
            while part := file.read(PIECE):
                if b"\0" in part:  # a sparse file of gigabytes holds nothing else
                    raise UserError(f"{path}: this is not a text file: it contains NUL bytes")
                parts.append(part)
        text = b"".join(parts).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, without their ends; see `read_text`.

    Raises:
        UserError: if it cannot be read, or has more than `MAX_LINES`.
    """
    return split_lines(read_text(path), path)


def split_lines(text: str, path: Path | str) -> list[str]:
    """Return the lines of a text, without their ends.

    Raises:
        UserError: if there are more than `MAX_LINES`.
    """
    if text.count("\n") >= MAX_LINES:
        raise UserError(f"{path}: this file has more than {MAX_LINES:,} lines")
    return text.split("\n")


def read_records(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the named columns of every row, as texts without white space around them.

    The ending of the file's name tells its kind: ``.jsonl``, ``.ndjson`` and ``.json`` hold an object a line, ``.tsv``
    columns between tabs, and any other file columns between commas. Tables have a header; quotes may hold separators
    and line ends.

    Raises:
        UserError: naming the file, the row (as an editor counts lines, where a record begins) and the column of what
            is missing or empty.
    """
    found = []
    for line, row in rows_of(path, columns):
        for column in columns:
            if column not in row:
                raise UserError(f"{path}, row {line}: there is no '{column}'. {nearest(column, row)}")
            if not row[column].strip():
                raise UserError(f"{path}, row {line}, column '{column}': this is empty")
        found.append(tuple(row[column].strip() for column in columns))
    if not found:
        raise UserError(f"{path}: there are no rows in this file")
    return found


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line where a row begins, and its cells by the names of their columns.

    Args:
        path: see `read_records`. Lists and objects in JSON lines are passed over.
        columns: that a table's header must have.

    Raises:
        UserError: if it cannot be read, naming the file and the row, or if it has more than `MAX_COLUMNS` or `MAX_CELLS`.
    """
    cells = 0
    for line, row in _json_rows(path, columns) if path.suffix.lower() in JSON_LINES else _table_rows(path, columns):
        cells += len(row)
        if cells > MAX_CELLS:
            raise UserError(f"{path}: this table has more than {MAX_CELLS:,} cells")
        yield line, row


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            such = f" such as {delimiter.join(columns)}" if columns else ""
            raise UserError(f"{path}: this file is empty; it begins with a header{such}")
        for column in columns:
            if column not in header:
                parts = [nearest(column, header)] if not set(",;\t|") & set(header[0]) else []
                if len(header) == 1:
                    parts.append(f"Columns stand between {'tabs' if delimiter == chr(9) else 'commas'}; it has none.")
                raise UserError(f"{path}: the header has no column '{column}'. {' '.join(parts)}")
        if len(header) > MAX_COLUMNS:
            raise UserError(f"{path}: the header has {len(header):,} columns; a table has at most {MAX_COLUMNS:,}")
        for column, count in Counter(header).items():
            if count > 1:
                raise UserError(f"{path}: the header names '{column}' more than once")
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    hint = "" if len(cells) < len(header) else "; a text that holds the separator is put in quotes"
                    raise UserError(
                        f"{path}, row {line}: {len(cells)} columns where the header has {len(header)}{hint}"
                    )
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, row {line}: this is no CSV: {error}") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    names: set[str] = set()
    for line, text in enumerate(read_lines(path), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, row {line}, column {error.colno}: this is no JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, row {line}: this JSON cannot be read: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f'{path}, row {line}: a row is an object, such as {{"text": "…", "label": "…"}}')
        names.update(row)
        if len(names) > MAX_COLUMNS:
            raise UserError(f"{path}, row {line}: more than {MAX_COLUMNS:,} columns up to here, the most of a table")
        nested = [key for key, value in row.items() if isinstance(value, dict | list)]
        if wrong := [key for key in nested if key in columns]:
            raise UserError(f"{path}, row {line}, column '{wrong[0]}': neither a text nor a number")
        yield (
            line,
            {printable(key): "" if row[key] is None else printable(str(row[key])) for key in row if key not in nested},
        )
