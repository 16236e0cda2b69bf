"""Predictions of a model as a file: CSV for spreadsheets, or JSON lines."""

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

SUFFIXES = (".csv", ".jsonl")


class PredictionWriter:
    """Write predictions one by one into a file that exists only once all are written.

    A JSON line is an object with ``input``, ``prediction`` and, for classes, ``probabilities``; a CSV row has a column for
    each number of them, named after the class, target or step. In CSV, text that begins like a formula of a spreadsheet
    gets an apostrophe in front, and control characters are written as ``\\u000d``; JSON lines hold all text as it is.

    Args:
        path: file to write, with the suffix ``.csv`` or ``.jsonl``.
        inputs: inputs of the command line; a file among them is not overwritten.

    Raises:
        UserError: for another suffix, for an input file, or if the file cannot be written.
    """

    def __init__(self, path: Path, inputs: Sequence[str] = ()) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"--output {path}: must end in {' or '.join(SUFFIXES)}")
        if path.is_dir():
            raise UserError(f"--output {path}: this is a folder; name a file")
        if path.exists() and any(os.path.isfile(name) and path.samefile(name) for name in inputs):
            raise UserError(f"--output {path}: this is an input file, which the predictions would overwrite")
        self.path = path
        self._replacement = replace_below(path.parent, path.name)
        self._file: TextIOWrapper | None = None
        self._columns: list[str] = []
        self.count = 0

    def __enter__(self) -> "PredictionWriter":
        try:
            binary = self._replacement.__enter__()
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written: {error.strerror}") from error
        self._file = TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
        return self

    def write(self, name: str, output: dict[str, Any]) -> None:
        """Add the prediction for one input.

        Args:
            name: the input as text, or its file.
            output: ``prediction`` and, for some models, ``probabilities`` and ``attention``.
        """
        assert self._file is not None
        self.count += 1
        if self.path.suffix.lower() == ".jsonl":
            self._file.write(json.dumps({"input": name, **output}, ensure_ascii=False) + "\n")
            return
        row = {"input": name, **dict(_flatten("prediction", output["prediction"]))}
        for label, probability in output.get("probabilities", {}).items():
            row[f"probability {label}"] = probability
        if "attention" in output:
            row["attention"] = " ".join(output["attention"])
        writer = csv.writer(self._file, lineterminator="\n")
        if not self._columns:
            self._columns = list(row)
            writer.writerow(map(csv_cell, self._columns))
        writer.writerow([csv_cell(row[column]) for column in self._columns])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.detach()  # flushes; the binary file is closed when it replaces the target
        self._replacement.__exit__(kind, error, traceback)


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers of a prediction by name, such as ``prediction 3 OT`` for the third step of a series."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, part in items:
            yield from _flatten(f"{name} {key}", part)
    else:
        yield name, value
