"""A table of the user's: numbers and categories by the names of their columns, and a class or numbers to tell."""

import csv
import io
import logging
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, nearest
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.delimited_text import MAX_CELLS, rows_of
from src.datamodules.io.numeric_table import is_number, looks_like_file, what_it_is
from src.datamodules.preparation import part, texts
from src.datamodules.splits.cross_validation import recut
from src.datamodules.splits.holdout import completed, split_groups, split_paths
from src.datamodules.standardizer import Standardizer
from src.datamodules.tabular.column_encoding import Column, Columns, Row, number_in

log = logging.getLogger(__name__)

MOST_CLASSES = 100
"""Different numbers in a target, beyond which they are rather a quantity than classes; so are those of which most occur
once."""
FEW_ROWS = 20
"""Rows that are too few to tell."""


class Table(DataModule):
    """Rows of a CSV, TSV or JSON lines file. Validation and test are files of their own, or else drawn, each class in
    proportion; with `group_column`, rows of one group stay in one split.

    Args:
        path: the file; with `val_path` and `test_path` it is all training data.
        target_column: what is to be told: the name of a column, or a list of them for regression.
        kind: ``classification``, ``binary_classification`` or ``regression``; of two classes, the second in order is
            the one that a binary answer means.
        columns: the names of the features; None takes all other columns.
        ignore: names of columns to leave out.
        categories: names of columns whose numbers are names.
        missing: texts that stand for a missing cell, whatever their case. A row without a target is left out.
        group_column: rows with the same text in it stay in one split, such as those of one patient; no feature.
        val_path, test_path: files of the other splits.
        split_seed: draws the splits that have no file.
        val_fraction, test_fraction: their shares.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "vector"

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
        self.task = kind  # type: ignore[misc]  # of this table
        self.paths = split_paths(path, val_path, test_path)
        self.targets = (target_column,) if isinstance(target_column, str) else tuple(target_column)
        self.chosen = None if columns is None else tuple(columns)
        self.ignored, self.categories = tuple(ignore), tuple(categories)
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
            self.columns = self._fitted(parts["train"])
            self._fit_targets(parts["train"])
        return {
            name: LabelledBatch(self.columns.apply(part), self._answers(name, part)) for name, part in parts.items()
        }

    # ---- rows ----------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of each split that have a target."""
        given = {name: self._labelled(path) for name, path in self.paths.items()}
        if "train" not in given:
            return given
        self._refuse_quantities(given["train"])
        together = self._together()
        label = itemgetter(self.targets[0])
        stratum = (lambda row: "") if self.task == "regression" else (lambda row: label(row[1]))
        if self.group_column is None:
            kept = (lambda row: self._group(row, together)) if together else None
            return completed(given, *self.fractions, self.split_seed, stratum, self.fold, kept)
        val, test = (0.0 if name in given else f for name, f in zip(("val", "test"), self.fractions, strict=True))
        groups = [self._group(row, self.group_column) for row in given["train"]]
        drawn = split_groups(groups, val, test, self.split_seed)
        splits = {
            name: given[name] if name in given and name != "train" else [given["train"][i] for i in index]
            for name, index in drawn.items()
        }
        classes = None if self.task == "regression" else (lambda rows: [stratum(row) for row in rows])
        return recut(splits, self.fold, classes, lambda rows: [self._group(row, together) for row in rows])

    def _together(self) -> str | None:
        """Return the column whose rows stay in one fold, where there are folds; else the one for the splits."""
        return (self.fold.group if self.fold else None) or self.group_column

    def _refuse_quantities(self, rows: Sequence[Row]) -> None:
        labels = {row[self.targets[0]] for _, row in rows}
        many = len(labels) > MOST_CLASSES or 2 * len(labels) > len(rows) > FEW_ROWS
        if self.task != "regression" and many and all(map(is_number, labels)):
            raise UserError(
                f"{self.paths['train']}: column '{self.targets[0]}' has {len(labels):,} different numbers: to tell a "
                "quantity, datamodule.kind=regression"
            )

    def groups(self, column: str) -> list[str]:
        rows = self._labelled(self.paths["train"])
        present = dict.fromkeys(name for _, row in rows for name in row)
        if column not in present:
            raise UserError(
                f"cross_validation.group: {self.paths['train']} has no column '{column}'. {nearest(column, present)}"
            )
        return [self._group(row, column) for row in rows]

    def _group(self, row: Row, column: str | None) -> str:
        """Return the group of a row.

        Raises:
            UserError: for a row without one.
        """
        where, cells = row
        if not (column and cells.get(column)):
            raise UserError(f"{where}, column '{column}': this is empty, and names the row's group")
        return cells[column]

    def _labelled(self, path: Path) -> list[Row]:
        apart = (self.group_column, None if path == self.paths.get("test") else self._together())
        wanted = (*self.targets, *(self.chosen or ()), *(name for name in apart if name))
        found = self._read(path, wanted)
        kept = [row for row in found if not any(self._is_missing(row[1].get(name, "")) for name in self.targets)]
        if not kept:
            raise UserError(f"{path}: no row has a value in column '{self.targets[0]}'")
        if len(kept) < len(found):
            left = len(found) - len(kept)
            log.warning(f"{path}: {left:,} of {len(found):,} rows are left out, without a target")
        return kept

    def _read(self, path: Path, wanted: Sequence[str]) -> list[Row]:
        """Return the rows of a file; missing cells are empty."""
        rows = [(f"{path}, row {line}", row) for line, row in rows_of(path, wanted)]
        if not rows:
            raise UserError(f"{path}: there are no rows in this file")
        present = dict.fromkeys(name for _, row in rows for name in row)
        if len(rows) * len(present) > MAX_CELLS:
            raise UserError(
                f"{path}: {len(rows):,} rows of {len(present):,} columns; a table has at most {MAX_CELLS:,} cells"
            )
        for name in wanted:
            if name not in present:  # of JSON lines: a key may be left out of some rows
                raise UserError(f"{path}: no row has '{name}'. {nearest(name, present)}")
        return [
            (where, {name: "" if self._is_missing(cell) else cell.strip() for name, cell in row.items()})
            for where, row in rows
        ]

    def _is_missing(self, cell: str) -> bool:
        return cell.strip().lower() in self.absent

    # ---- what is fitted on training ---------------------------------------------------------------------------------

    def _fitted(self, rows: Sequence[Row]) -> Columns:
        present = dict.fromkeys(name for _, row in rows for name in row)
        for key, names in (("ignore", self.ignored), ("categories", self.categories), ("columns", self.chosen or ())):
            for name in names:
                if name not in present:
                    raise UserError(
                        f"datamodule.{key}: {self.paths['train']} has no column '{name}'. {nearest(name, present)}"
                    )
        apart = {*self.targets, *self.ignored, self.group_column, self._together()}
        names = tuple(name for name in self.chosen or present if name not in apart)
        if not names:
            raise UserError(f"{self.paths['train']}: no column is left to tell {', '.join(self.targets)} from")
        columns = tuple(Column.fit(name, rows, name in self.categories, ("",)) for name in names)
        words = [f"{c.name} ({'number' if c.values is None else f'{len(c.values)} categories'})" for c in columns]
        log.info("%s: columns read as %s", self.paths["train"], ", ".join(words))
        return Columns(columns, ("",))

    def _fit_targets(self, rows: Sequence[Row]) -> None:
        where = str(self.paths["train"])
        if self.task == "regression":
            self.target_scale = Standardizer.fit(self._numbers(rows))
            return
        labels = [row[self.targets[0]] for _, row in rows]
        self.classes = classes_of(labels, where)
        if self.task == "binary_classification" and len(self.classes) != 2:
            raise UserError(
                f"{where}: column '{self.targets[0]}' has {len(self.classes)} classes, and yes or no has two: "
                "datamodule.kind=classification"
            )

    def _numbers(self, rows: Sequence[Row]) -> Tensor:
        table = []
        for where, row in rows:
            for name in self.targets:
                if not is_number(row[name]):
                    raise UserError(
                        f"{where}, column '{name}': '{row[name][:60]}' {what_it_is(row[name])}; for classes: "
                        "datamodule.kind=classification"
                    )
            table.append([number_in(where, name, row[name]) for name in self.targets])
        return torch.tensor(table, dtype=torch.float64)

    def _answers(self, name: str, rows: Sequence[Row]) -> Tensor:
        if self.target_scale is not None:
            return self.target_scale.apply(self._numbers(rows))
        numbers = class_numbers([row[self.targets[0]] for _, row in rows], self.classes, str(self.place_of(name)))
        return numbers if self.task == "classification" else numbers.float()

    # ---- as every data source ---------------------------------------------------------------------------------------

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
        """Each input is a file with a header, whose other columns are passed over, or a row such as ``5.1,red,,4``."""
        assert self.columns is not None
        rows: list[Row] = []
        for given in inputs:
            if looks_like_file(given):
                rows += self._read(Path(given), self.columns.names)
                self._warn_of_strange_keys(given, rows)
            else:
                rows += self._typed(given)
        x = self.columns.apply(rows)
        return LabelledBatch(x, torch.zeros(len(x)))

    def _typed(self, given: str) -> list[Row]:
        """Return the rows of an input that a person typed, one a line."""
        assert self.columns is not None
        names = self.columns.names
        try:
            lines = list(csv.reader(io.StringIO(given))) or [[]]
        except csv.Error as error:
            raise UserError(f"input '{given[:60]}': this is no CSV: {error}") from error
        rows: list[Row] = []
        for cells in lines:
            where = f"input '{','.join(cells)[:60]}'"
            if len(cells) != len(names):
                raise UserError(
                    f"{where}: {len(cells)} columns where {len(names)} are expected: {', '.join(names[:40])}"
                )
            known = ("" if self._is_missing(cell) else cell.strip() for cell in cells)
            rows.append((where, dict(zip(names, known, strict=True))))
        return rows

    def _warn_of_strange_keys(self, file: str, rows: Sequence[Row]) -> None:
        """Name the keys of rows that lack a feature: they may be meant for it."""
        assert self.columns is not None
        known = {*self.columns.names, *self.targets, *self.ignored, self.group_column}
        lacking = [row for _, row in rows if not row.keys() >= set(self.columns.names)]
        if strange := sorted({key for row in lacking for key in row.keys() - known}):
            log.warning(f"{file}: {', '.join(strange[:5])} is passed over in rows that lack a column of training")

    def example_inputs(self, count: int = 3) -> list[str]:
        names = self.columns.names if self.columns else self._fitted(self.rows()["train"]).names
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [row.get(name, "") for name in names] for _, row in self.rows()["test"][:count]
        )
        return lines.getvalue().splitlines()

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if (scale := self.target_scale) is None:
            return answers
        undone = ([scale.undo(i, a["prediction"][name]) for i, name in enumerate(self.targets)] for a in answers)
        return [{"prediction": dict(zip(self.targets, row, strict=True)) if len(row) > 1 else row[0]} for row in undone]

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
