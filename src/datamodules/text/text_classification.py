"""Labelled texts of the user, tokenized as words."""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.delimited_text import JSON_LINES, read_columns, read_nonempty_lines
from src.datamodules.io.numeric_table import is_file_path
from src.datamodules.preparation import part, texts
from src.datamodules.splits.holdout import draw_missing_splits, split_paths
from src.datamodules.tokenizers.vocabulary import PADDING, pad, trim_padding
from src.datamodules.tokenizers.words import Words, tokenize

TABLES = (".csv", ".tsv", *JSON_LINES)


class TextClassification(DataModule):
    """Texts of two or more classes, from a CSV, TSV or JSON lines file.

    Tokens are the sufficiently frequent words and punctuation marks of training. Validation and test have their own
    files, or are drawn from the first file, stratified by class.

    Args:
        path: the file; with `val_path` and `test_path`, all of it is training data.
        text_column, label_column: names of its columns.
        val_path, test_path: files of the other splits.
        split_seed: seed of the splits that are drawn.
        val_fraction, test_fraction: shares of the splits that are drawn.
        min_frequency: words that are less frequent in training are unknown.
        max_length: number of words after which a text is truncated.
        lowercase: convert texts to lower case.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "tokens"
    supports_folds = True
    raw = "text"

    def __init__(
        self,
        path: Path,
        text_column: str = "text",
        label_column: str = "label",
        val_path: Path | None = None,
        test_path: Path | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        min_frequency: int = 2,
        max_length: int = 200,
        lowercase: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.paths = split_paths(path, val_path, test_path)
        self.columns = (text_column, label_column)
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self.min_frequency = min_frequency
        self.max_length = max_length
        self.lowercase = lowercase
        self.vocabulary: Words | None = None
        self.classes: tuple[str, ...] = ()
        self._training_texts: list[str] = []

    def load(self) -> dict[str, Batch]:
        rows = self._rows()
        if not self.classes:
            self.classes = classes_of((label for _, label in rows["train"]), str(self.paths["train"]))
        labels = {
            name: class_numbers([label for _, label in part], self.classes, str(self.source_path(name)))
            for name, part in rows.items()
        }
        texts = {name: [text for text, _ in part] for name, part in rows.items()}
        self._training_texts = texts.get("train", [])
        if self.augmentation is not None:
            self.augmentation.fit(self._training_texts)
        if self.vocabulary is None:
            self.vocabulary = self._vocabulary(self._training_texts)
        return {name: LabelledBatch(self._tokens(texts[name]), labels[name]) for name in rows}

    def _rows(self) -> dict[str, list[tuple[str, ...]]]:
        """Return (text, label) of every example of each split."""
        column = self.fold.group if self.fold else None
        columns = self.columns if column is None else (*self.columns, column)
        available = {
            name: read_columns(path, columns if name != "test" else self.columns) for name, path in self.paths.items()
        }
        group = None if column is None else itemgetter(2)
        parts = draw_missing_splits(available, *self.fractions, self.split_seed, itemgetter(1), self.fold, group)
        return {name: [row[:2] for row in rows] for name, rows in parts.items()}

    def groups(self, column: str) -> list[str]:
        return [value for (value,) in read_columns(self.paths["train"], (column,))]

    def _vocabulary(self, texts: Sequence[str]) -> Words:
        """Return the vocabulary of the training texts, extended by all words that augmentation may insert.

        A word that occurs in a text and in its paraphrase counts once, because training uses one of the two.
        """
        if self.augmentation is None:
            return Words.of(texts, self.min_frequency, self.lowercase)
        added = [
            " ".join((Counter(tokenize(other, self.lowercase)) - Counter(tokenize(text, self.lowercase))).elements())
            for text, other in self.augmentation.paraphrases(texts)
        ]
        words = Words.of([*texts, *added], self.min_frequency, self.lowercase)
        return words.extended(synonym for word in words.tokens for synonym in self.augmentation.synonyms(word))

    def _tokens(self, texts: Sequence[str], warn: bool = False) -> Tensor:
        """Return the tokens of texts [B, max_length], padded at the end."""
        assert self.vocabulary is not None
        rows = [self.vocabulary.encode(text, warn)[: self.max_length] for text in texts]
        return pad(rows, self.max_length)

    def collate(self, batch: Batch) -> Batch:
        """Remove the padding that no text of the batch needs."""
        assert isinstance(batch, LabelledBatch)
        return batch._replace(x=trim_padding(batch.x))

    def training_texts(self) -> list[str]:
        return self._training_texts

    def augmented(self, index: Tensor) -> Tensor:
        return self._tokens([self.augmentation(self._training_texts[i]) for i in index.tolist()])

    @property
    def spec(self) -> DataSpec:
        assert self.vocabulary is not None
        return DataSpec(
            self.task,
            self.inputs,
            (self.max_length,),
            (len(self.classes),),
            vocabulary_size=len(self.vocabulary),
            padding_id=PADDING,
            class_names=self.classes,
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a text or a file of texts: a table with the text column, or one text per line."""
        texts = self.listed(inputs)
        return LabelledBatch(self._tokens(texts, warn=True), torch.zeros(len(texts), dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return [text for item in inputs for text in self._read(item)]

    def _read(self, item: str) -> list[str]:
        if is_file_path(item):
            path = Path(item)
            if path.suffix.lower() in TABLES:
                return [text for (text,) in read_columns(path, self.columns[:1])]
            return [line.strip() for line in read_nonempty_lines(path)]
        if not item.strip():
            raise UserError("an empty input is no text")
        return [item]

    def example_inputs(self, count: int = 3) -> list[str]:
        return [text for text, _ in self._rows()["test"][:count]]

    def state_dict(self) -> dict[str, Any]:
        if self.vocabulary is None:
            return {}
        return {"vocabulary": self.vocabulary.to_plain(), "classes": list(self.classes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vocabulary = Words.from_plain(part(state_dict, "vocabulary"))
        self.classes = texts(state_dict, "classes")
