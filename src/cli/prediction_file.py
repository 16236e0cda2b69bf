"""A model's answers as a file: CSV for spreadsheets, or JSON lines."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any

from src.core.errors import UserError
from src.core.escape import csv_cell
from src.core.files import replace_below

ENDINGS = (".csv", ".jsonl")


class AnswerFile:
    """Writes answers as they come, and is in its place only when all have come.

    A line is an object with ``input``, ``prediction`` and, for classes, ``probabilities``; a CSV row has a column for
    each number of them, named after the class, target or step. In CSV, text that begins like a formula of a spreadsheet
    gets an apostrophe in front, and control characters are written as ``\\u000d``; JSON lines hold all text as it is.

    Args:
        path: ends in ``.csv`` or ``.jsonl``.
        inputs: of the command line; a file among them is not written over.

    Raises:
        UserError: for another ending, for an input, or if nothing can be written there.
    """

    def __init__(self, path: Path, inputs: Sequence[str] = ()) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UserError(f"--output {path}: must end in {' or '.join(ENDINGS)}")
        if path.is_dir():
            raise UserError(f"--output {path}: this is a folder; the answers go into a file")
        if path.exists() and any(os.path.isfile(given) and path.samefile(given) for given in inputs):
            raise UserError(f"--output {path}: this is an input, and the answers would take its place")
        self.path = path
        self._replacing = replace_below(path.parent, path.name)
        self._file: TextIOWrapper | None = None
        self._columns: list[str] = []
        self.count = 0

    def __enter__(self) -> "AnswerFile":
        try:
            binary = self._replacing.__enter__()
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written: {error.strerror}") from error
        self._file = TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
        return self

    def write(self, shown: str, found: dict[str, Any]) -> None:
        """Add the answer to an input."""
        assert self._file is not None
        self.count += 1
        if self.path.suffix.lower() == ".jsonl":
            self._file.write(json.dumps({"input": shown, **found}, ensure_ascii=False) + "\n")
            return
        row = {"input": shown, **dict(_flat("prediction", found["prediction"]))}
        row |= {f"probability {name}": share for name, share in found.get("probabilities", {}).items()}
        row |= {"attention": " ".join(found["attention"])} if "attention" in found else {}
        writer = csv.writer(self._file, lineterminator="\n")
        if not self._columns:
            self._columns = list(row)
            writer.writerow(map(csv_cell, self._columns))
        writer.writerow([csv_cell(row[column]) for column in self._columns])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.detach()  # which flushes; the binary file is closed when it takes its place
        self._replacing.__exit__(kind, error, frames)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers of an answer by their names, such as ``prediction 3 OT`` for the third step of a series."""
    if isinstance(value, dict | list):
        named = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, part in named:
            yield from _flat(f"{name} {key}", part)
    else:
        yield name, value
