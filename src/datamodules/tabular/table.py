"""A table of the user: columns of numbers and categories, and a class or numbers as target."""

import csv
import io
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, nearest
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.delimited_text import MAX_CELLS, iterate_rows
from src.datamodules.io.numeric_table import is_number, looks_like_file, parse_number
from src.datamodules.preparation import part, texts
from src.datamodules.splits.holdout import draw_missing_splits, split_paths
from src.datamodules.standardizer import Standardizer
from src.datamodules.tabular.column_encoding import Column, Columns, Row

log = logging.getLogger(__name__)

MAX_NUMERIC_CLASSES = 100
"""Largest number of distinct numbers in a classification target. More, or numbers of which most occur once, are rejected as a
probable quantity."""
MIN_ROWS_TO_CHECK = 20
"""Up to this number of rows, numbers that occur once are accepted as classes."""


class Table(DataModule):
    """Rows of a CSV, TSV or JSON lines file. Validation and test have their own files, or are drawn, stratified by class;
    with `group_column`, all rows of a group are in one split.

    Args:
        path: the file; with `val_path` and `test_path`, all of it is training data.
        target_column: name of the target column; for regression also a list of names.
        kind: ``classification``, ``binary_classification`` or ``regression``; of two classes, the
            second in sorted order is the positive one.
        columns: names of the feature columns; None: all other columns.
        ignore: names of columns to exclude.
        categories: names of columns whose numbers are categories.
        missing: texts of missing cells, in any case. Rows without a target are dropped.
        group_column: rows with equal values in this column stay in one split, such as those of one patient; it is not a
            feature.
        val_path, test_path: files of the other splits.
        split_seed: seed of the splits that are drawn.
        val_fraction, test_fraction: shares of the splits that are drawn.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "vector"
    supports_folds = True

    def __init__(
        self,
        path: Path,
        target_column: str | Sequence[str],
        kind: str = "classification",
        columns: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        categories: Sequence[str] = (),
        missing: Sequence[str] = ("",),
        group_column: str | None = None,
        val_path: Path | None = None,
        test_path: Path | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.task = kind  # type: ignore[misc]  # depends on the instance
        self.paths = split_paths(path, val_path, test_path)
        self.targets = (target_column,) if isinstance(target_column, str) else tuple(target_column)
        self.feature_columns = None if columns is None else tuple(columns)
        self.ignore, self.categories = tuple(ignore), tuple(categories)
        self.absent = {"", *(text.lower() for text in missing)}
        self.group_column = group_column
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self.columns: Columns | None = None
        self.classes: tuple[str, ...] = ()
        self.target_scale: Standardizer | None = None

    def load(self) -> dict[str, Batch]:
        parts = self.rows()
        if self.columns is None:
            self.columns = self._fit_columns(parts["train"])
            self._fit_targets(parts["train"])
        return {
            name: LabelledBatch(self.columns.apply(part), self._targets(name, part)) for name, part in parts.items()
        }

    # ---- rows ----------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of each split that have a target."""
        available = {name: self._labelled_rows(path) for name, path in self.paths.items()}
        if "train" not in available:
            return available
        self._refuse_quantities(available["train"])
        fold_column = self._fold_group_column()
        return draw_missing_splits(
            available,
            *self.fractions,
            self.split_seed,
            stratum=lambda row: "" if self.task == "regression" else row[1][self.targets[0]],
            fold=self.fold,
            fold_groups=partial(_group_of, column=fold_column) if fold_column else None,
            groups=partial(_group_of, column=self.group_column) if self.group_column else None,
        )

    def _fold_group_column(self) -> str | None:
        """Return the column whose groups stay in one fold: that of the cross-validation, or else `group_column`."""
        return (self.fold.group if self.fold else None) or self.group_column

    def _refuse_quantities(self, rows: Sequence[Row]) -> None:
        labels = {row[self.targets[0]] for _, row in rows}
        looks_continuous = len(labels) > MAX_NUMERIC_CLASSES or 2 * len(labels) > len(rows) > MIN_ROWS_TO_CHECK
        if self.task != "regression" and looks_continuous and all(map(is_number, labels)):
            raise UserError(
                f"{self.paths['train']}: column '{self.targets[0]}' has {len(labels):,} different numbers; to predict "
                "a quantity, set datamodule.kind=regression"
            )

    def groups(self, column: str) -> list[str]:
        return [_group_of(row, column) for row in self._labelled_rows(self.paths["train"])]

    def _labelled_rows(self, path: Path) -> list[Row]:
        group_columns = (self.group_column, None if path == self.paths.get("test") else self._fold_group_column())
        required = (*self.targets, *(self.feature_columns or ()), *(name for name in group_columns if name))
        rows = self._read(path, required)
        labelled = [row for row in rows if all(row[1].get(name) for name in self.targets)]
        if not labelled:
            raise UserError(f"{path}: no row has a value in column '{self.targets[0]}'")
        if dropped := len(rows) - len(labelled):
            log.warning(f"{path}: {dropped:,} of {len(rows):,} rows have no target and are dropped")
        return labelled

    def _read(self, path: Path, required: Sequence[str]) -> list[Row]:
        """Return the rows of a file; missing cells become empty."""
        rows = [(f"{path}, row {line}", row) for line, row in iterate_rows(path, required)]
        if not rows:
            raise UserError(f"{path}: there are no rows in this file")
        present = dict.fromkeys(name for _, row in rows for name in row)
        if len(rows) * len(present) > MAX_CELLS:
            raise UserError(
                f"{path}: {len(rows):,} rows of {len(present):,} columns; a table has at most {MAX_CELLS:,} cells"
            )
        for name in required:
            if name not in present:  # in JSON lines, some rows may lack a key
                raise UserError(f"{path}: no row has '{name}'. {nearest(name, present)}")
        return [
            (where, {name: "" if self._is_missing(cell) else cell.strip() for name, cell in row.items()})
            for where, row in rows
        ]

    def _is_missing(self, cell: str) -> bool:
        return cell.strip().lower() in self.absent

    # ---- preparation, fitted on training rows ------------------------------------------------------------------------

    def _fit_columns(self, rows: Sequence[Row]) -> Columns:
        present = dict.fromkeys(name for _, row in rows for name in row)
        for key, names in (("ignore", self.ignore), ("categories", self.categories)):
            for name in names:
                if name not in present:
                    raise UserError(
                        f"datamodule.{key}: {self.paths['train']} has no column '{name}'. {nearest(name, present)}"
                    )
        excluded = {*self.targets, *self.ignore, self.group_column, self._fold_group_column()}
        names = tuple(name for name in self.feature_columns or present if name not in excluded)
        if not names:
            raise UserError(f"{self.paths['train']}: no column is left to predict {', '.join(self.targets)} from")
        columns = tuple(Column.fit(name, rows, name in self.categories) for name in names)
        kinds = [f"{c.name} ({'number' if c.values is None else f'{len(c.values)} categories'})" for c in columns]
        log.info("%s: columns read as %s", self.paths["train"], ", ".join(kinds))
        return Columns(columns)

    def _fit_targets(self, rows: Sequence[Row]) -> None:
        where = str(self.paths["train"])
        if self.task == "regression":
            self.target_scale = Standardizer.fit(self._numbers(rows))
            return
        labels = [row[self.targets[0]] for _, row in rows]
        self.classes = classes_of(labels, where)
        if self.task == "binary_classification" and len(self.classes) != 2:
            raise UserError(
                f"{where}: column '{self.targets[0]}' has {len(self.classes)} classes; binary classification has two. "
                "Set datamodule.kind=classification"
            )

    def _numbers(self, rows: Sequence[Row]) -> Tensor:
        hint = "; for classes, set datamodule.kind=classification"
        table = [
            [parse_number(row[name], f"{where}, column '{name}'", hint) for name in self.targets] for where, row in rows
        ]
        return torch.tensor(table, dtype=torch.float64)

    def _targets(self, name: str, rows: Sequence[Row]) -> Tensor:
        if self.target_scale is not None:
            return self.target_scale.apply(self._numbers(rows))
        numbers = class_numbers([row[self.targets[0]] for _, row in rows], self.classes, str(self.source_path(name)))
        return numbers if self.task == "classification" else numbers.float()

    # ---- interface of DataModule ------------------------------------------------------------------------------------

    @property
    def spec(self) -> DataSpec:
        assert self.columns is not None
        shapes: dict[str, tuple[int, ...]] = {"classification": (len(self.classes),), "binary_classification": ()}
        return DataSpec(
            self.task,
            self.inputs,
            (len(self.columns.features),),
            shapes.get(self.task, (len(self.targets),)),
            class_names=self.classes,
            feature_names=self.columns.features,
            target_names=self.targets if self.task == "regression" else (),
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a file with a header, whose other columns are ignored, or a row such as ``5.1,red,,4``."""
        assert self.columns is not None
        rows: list[Row] = []
        for text in inputs:
            if looks_like_file(text):
                rows += self._read(Path(text), self.columns.names)
                self._warn_about_unknown_keys(text, rows)
            else:
                rows += self._parse_rows(text)
        x = self.columns.apply(rows)
        return LabelledBatch(x, torch.zeros(len(x)))

    def _parse_rows(self, text: str) -> list[Row]:
        """Return the rows of a text with one CSV row per line."""
        assert self.columns is not None
        names = self.columns.names
        try:
            lines = list(csv.reader(io.StringIO(text))) or [[]]
        except csv.Error as error:
            raise UserError(f"input '{text[:60]}': this is not valid CSV: {error}") from error
        rows: list[Row] = []
        for cells in lines:
            where = f"input '{','.join(cells)[:60]}'"
            if len(cells) != len(names):
                raise UserError(
                    f"{where}: {len(cells)} columns where {len(names)} are expected: {', '.join(names[:40])}"
                )
            values = ("" if self._is_missing(cell) else cell.strip() for cell in cells)
            rows.append((where, dict(zip(names, values, strict=True))))
        return rows

    def _warn_about_unknown_keys(self, file: str, rows: Sequence[Row]) -> None:
        """Log the unknown keys of rows that lack a feature: they may be misspelled."""
        assert self.columns is not None
        known = {*self.columns.names, *self.targets, *self.ignore, self.group_column}
        incomplete = [row for _, row in rows if not row.keys() >= set(self.columns.names)]
        if unknown := sorted({key for row in incomplete for key in row.keys() - known}):
            log.warning(f"{file}: {', '.join(unknown[:5])} is ignored in rows that lack a column of training")

    def example_inputs(self, count: int = 3) -> list[str]:
        names = self.columns.names if self.columns else self._fit_columns(self.rows()["train"]).names
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [row.get(name, "") for name in names] for _, row in self.rows()["test"][:count]
        )
        return lines.getvalue().splitlines()

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if (scale := self.target_scale) is None:
            return predictions
        rows = ([scale.undo(i, p["prediction"][name]) for i, name in enumerate(self.targets)] for p in predictions)
        return [{"prediction": dict(zip(self.targets, row, strict=True)) if len(row) > 1 else row[0]} for row in rows]

    def state_dict(self) -> dict[str, Any]:
        if self.columns is None:
            return {}
        scale = {"target_scale": self.target_scale.to_plain()} if self.target_scale else {}
        return {"table": self.columns.to_plain(), "classes": list(self.classes), **scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.columns = Columns.from_plain(part(state_dict, "table"))
        self.classes = texts(state_dict, "classes")
        if self.task == "regression":
            self.target_scale = Standardizer.from_plain(part(state_dict, "target_scale"))


def _group_of(row: Row, column: str) -> str:
    """Return the group of a row; raise `UserError` if the cell is empty."""
    where, cells = row
    if not cells.get(column):
        raise UserError(f"{where}, column '{column}': this is empty, but must contain the group of the row")
    return cells[column]
