"""Base class of datamodules for translation: tokenizers of both languages, maximum lengths, and decoding."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from src.core.batches import Batch, TranslationBatch
from src.core.data_spec import SPLITS, DataSpec
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.io.delimited_text import read_nonempty_lines
from src.datamodules.io.numeric_table import is_file_path
from src.datamodules.preparation import part, sizes
from src.datamodules.tokenizers.factory import Tokens, fit_tokenizer, from_plain
from src.datamodules.tokenizers.vocabulary import END, PADDING, START, pad, trim_padding

log = logging.getLogger(__name__)

Pair = tuple[str, str]
Row = tuple[list[int], list[int]]
"""Tokens of a text and of its translation."""


class Translating(DataModule):
    """Texts and their translations. A subclass implements `pairs`; it overrides `max_lengths` if they do not follow from the
    data.

    Args:
        tokens: ``characters``, ``words`` or ``byte_pairs``.
        vocabulary_size: number of tokens per language, for byte pairs.
        min_frequency: tokens that are less frequent in training are unknown; less frequent byte pairs are not merged.
        lowercase: convert texts to lower case.
        max_length: pairs with more tokens on one side are dropped; the log reports how many.
        common: arguments of `DataModule`.
    """

    task = "translation"
    inputs = "tokens"
    supports_folds = True
    filtered_splits: ClassVar[tuple[str, ...]] = SPLITS
    """Splits from which long pairs are dropped; in other splits, a long pair is an error."""

    def __init__(
        self,
        tokens: str = "words",
        vocabulary_size: int = 8000,
        min_frequency: int = 1,
        lowercase: bool = False,
        max_length: int = 100,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.tokens = tokens
        self.vocabulary_size = vocabulary_size
        self.min_frequency = min_frequency
        self.lowercase = lowercase
        self.max_length = max_length
        self.vocabularies: tuple[Tokens, Tokens] | None = None
        self.lengths = (0, 0)

    @abstractmethod
    def pairs(self) -> dict[str, list[Pair]]:
        """Return the pairs of each split, with stripped texts."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Source of the pairs, for error messages."""

    def load(self) -> dict[str, Batch]:
        parts = self.pairs()
        if self.vocabularies is None:
            self.vocabularies = self.fit_vocabularies(parts["train"])
        rows = self._drop_long({name: list(map(self._encode_pair, part)) for name, part in parts.items()})
        if self.lengths == (0, 0):
            self.lengths = self.max_lengths([row for part in rows.values() for row in part])
        return {name: self._batch(part) for name, part in rows.items()}

    def max_lengths(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Return the largest length of a source, with its end token, and of a target, with its start and end tokens."""
        return max(len(source) for source, _ in rows) + 1, max(len(target) for _, target in rows) + 2

    def fit_vocabularies(self, pairs: Sequence[Pair]) -> tuple[Tokens, Tokens]:
        """Return the vocabularies of the source and target texts of training."""
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        return (
            fit_tokenizer(self.tokens, sources, self.vocabulary_size, self.min_frequency),
            fit_tokenizer(self.tokens, targets, self.vocabulary_size, self.min_frequency),
        )

    def _encode_pair(self, pair: Pair, warn: bool = False) -> Row:
        assert self.vocabularies is not None
        source, target = self.vocabularies
        return source.encode(pair[0], warn), target.encode(pair[1])

    def _drop_long(self, parts: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """Drop pairs that are longer than `max_length`, or than the lengths that the model was trained for."""
        source_limit = target_limit = self.max_length
        if self.lengths != (0, 0):
            source_limit, target_limit = self.lengths[0] - 1, self.lengths[1] - 2
        limit = f"{source_limit}" if source_limit == target_limit else f"{source_limit} and {target_limit}"
        short = {}
        for name, rows in parts.items():
            fits = [len(source) <= source_limit and len(target) <= target_limit for source, target in rows]
            if name not in self.filtered_splits and not all(fits):
                raise UserError(
                    f"{self.where}: pair {fits.index(False) + 1} of the {name} split has more than {limit} tokens, "
                    "and this split must be complete: train with a larger datamodule.max_length"
                )
            short[name] = list(compress(rows, fits))
        total, remaining = sum(map(len, parts.values())), sum(map(len, short.values()))
        if not remaining:
            raise UserError(f"{self.where}: every pair has more tokens than datamodule.max_length={self.max_length}")
        if remaining < total:
            dropped = total - remaining
            log.warning(f"{self.where}: {dropped:,} of {total:,} pairs have more than {limit} tokens and are dropped")
        if empty := [name for name, rows in short.items() if not rows]:
            raise UserError(f"{self.where}: too few pairs of at most {limit} tokens: none is left for {empty[0]}")
        return short

    def _batch(self, rows: Sequence[Row]) -> TranslationBatch:
        return TranslationBatch(
            pad([[*source, END] for source, _ in rows]),
            pad([[START, *target, END] for _, target in rows], self.lengths[1]),
        )

    def collate(self, batch: Batch) -> Batch:
        """Remove the padding that no pair of the batch needs."""
        assert isinstance(batch, TranslationBatch)
        return TranslationBatch(trim_padding(batch.source), trim_padding(batch.target))

    @property
    def spec(self) -> DataSpec:
        assert self.vocabularies is not None
        source, target = self.vocabularies
        return DataSpec(
            self.task,
            self.inputs,
            (self.lengths[0],),
            (len(target),),
            vocabulary_size=len(source),
            padding_id=PADDING,
            start_id=START,
            end_id=END,
            target_length=self.lengths[1],
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a text to translate, or a file with one text per line; anything after a tab is ignored."""
        texts = [self._normalize_case(text).strip() for text in self.listed(inputs)]
        rows = [self._encode_pair((text, ""), warn=True) for text in texts]
        for text, (source, _) in zip(texts, rows, strict=True):
            if not text:
                raise UserError("the input is empty; a text to translate is expected")
            if len(source) >= self.lengths[0]:
                longest = self.lengths[0] - 1
                raise UserError(f"'{text[:60]}': {len(source)} tokens; the longest text of training has {longest}")
        batch = self._batch(rows)
        return batch._replace(target=torch.zeros(len(texts), self.lengths[1], dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        texts: list[str] = []
        for item in inputs:
            if is_file_path(item):
                texts += [line.partition("\t")[0] for line in read_nonempty_lines(Path(item))]
            else:
                texts.append(item)
        return texts

    def _normalize_case(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def example_inputs(self, count: int = 3) -> list[str]:
        return [source for source, _ in self.pairs()["test"][:count]]

    def texts(self, tokens: Tensor) -> list[str]:
        assert self.vocabularies is not None
        return [self.vocabularies[1].decode(row) for row in tokens.tolist()]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabularies is not None
        return [{"prediction": self.vocabularies[1].decode(prediction["tokens"])} for prediction in predictions]

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        assert self.vocabularies is not None
        return self.vocabularies[target].names(tokens)

    def state_dict(self) -> dict[str, Any]:
        if self.vocabularies is None:
            return {}
        source, target = (vocabulary.to_plain() for vocabulary in self.vocabularies)
        return {"source": source, "target": target, "lengths": list(self.lengths)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vocabularies = tuple(from_plain(self.tokens, part(state_dict, side)) for side in ("source", "target"))  # type: ignore[assignment]
        source, target = sizes(state_dict, "lengths", 2)
        self.lengths = (source, target)
