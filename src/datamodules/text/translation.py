"""What every source of texts with translations shares: tokens of both languages, lengths, and the way back to text."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from src.core.batches import Batch, TranslationBatch
from src.core.data_spec import SPLITS, DataSpec
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.io.delimited_text import read_lines
from src.datamodules.io.numeric_table import names_a_file
from src.datamodules.preparation import part, sizes
from src.datamodules.tokenizers.characters import END, PADDING, START, cut_padding, padded
from src.datamodules.tokenizers.factory import Tokens, from_plain, learned

log = logging.getLogger(__name__)

Pair = tuple[str, str]
Row = tuple[list[int], list[int]]
"""The tokens of a text and of its translation."""


class Translating(DataModule):
    """Texts and their translations. A subclass implements `pairs`, and `measured_lengths` where they are not the data's.

    Args:
        tokens: ``characters``, ``words`` or ``byte_pairs``.
        vocabulary_size: tokens of each language, for byte pairs.
        min_frequency: what occurs more rarely in training is unknown; a pair of bytes is not merged.
        lowercase: read every text in small letters.
        max_length: pairs with more tokens on one side are left out, and the log says how many.
        common: arguments of `DataModule`.
    """

    task = "translation"
    inputs = "tokens"
    shortened: ClassVar[tuple[str, ...]] = SPLITS
    """The splits out of which long pairs are left; a longer one in another split is refused."""

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
        """Return the pairs of each split, without white space around the texts."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the pairs come from, for messages."""

    def load(self) -> dict[str, Batch]:
        parts = self.pairs()
        if self.vocabularies is None:
            source, target = (self._learned([pair[side] for pair in parts["train"]]) for side in (0, 1))
            self.vocabularies = (source, target)
        rows = self._short({name: list(map(self._row, part)) for name, part in parts.items()})
        if self.lengths == (0, 0):
            self.lengths = self.measured_lengths([row for part in rows.values() for row in part])
        return {name: self._batch(part) for name, part in rows.items()}

    def measured_lengths(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Return the most tokens of a source, with its end, and of a target, with its start and end."""
        return max(len(source) for source, _ in rows) + 1, max(len(target) for _, target in rows) + 2

    def _learned(self, texts: Sequence[str]) -> Tokens:
        return learned(self.tokens, texts, self.vocabulary_size, self.min_frequency)

    def _row(self, pair: Pair, warn: bool = False) -> Row:
        assert self.vocabularies is not None
        source, target = self.vocabularies
        return source.encode(pair[0], warn), target.encode(pair[1])

    def _short(self, parts: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """Leave out pairs that are longer than asked for, or than what the model was trained for."""
        longest = (self.max_length, self.max_length)
        if self.lengths != (0, 0):
            longest = (self.lengths[0] - 1, self.lengths[1] - 2)
        most = " and ".join(map(str, dict.fromkeys(longest)))
        fits = {name: [_within(row, longest) for row in part] for name, part in parts.items()}
        for name in set(SPLITS) - set(self.shortened):
            if not all(fits[name]):
                raise UserError(
                    f"{self.where}: pair {fits[name].index(False) + 1} of the {name} split has more than {most} tokens, "
                    "and none may be left out of it: a larger datamodule.max_length trains for it"
                )
        kept = {name: [row for row, fit in zip(part, fits[name], strict=True) if fit] for name, part in parts.items()}
        before, after = (sum(map(len, rows.values())) for rows in (parts, kept))
        if not after:
            raise UserError(f"{self.where}: every pair has more tokens than datamodule.max_length={self.max_length}")
        if after < before:
            log.warning(f"{self.where}: {before - after:,} of {before:,} pairs are left out, longer than {most} tokens")
        if empty := [name for name, rows in kept.items() if not rows]:
            raise UserError(f"{self.where}: too few pairs of at most {most} tokens: none is left for {empty[0]}")
        return kept

    def _batch(self, rows: Sequence[Row]) -> TranslationBatch:
        return TranslationBatch(
            padded([[*source, END] for source, _ in rows]),
            padded([[START, *target, END] for _, target in rows], self.lengths[1]),
        )

    def collate(self, batch: Batch) -> Batch:
        """Cut the padding that no pair of this batch needs."""
        assert isinstance(batch, TranslationBatch)
        return TranslationBatch(cut_padding(batch.source), cut_padding(batch.target))

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
        """Each input is a text to translate, or a file of them, one a line; what stands behind a tab is passed over."""
        texts = [self._cased(text).strip() for text in self.listed(inputs)]
        rows = [self._row((text, ""), warn=True) for text in texts]
        for text, (source, _) in zip(texts, rows, strict=True):
            if not text:
                raise UserError("an empty input cannot be translated")
            if len(source) >= self.lengths[0]:
                longest = self.lengths[0] - 1
                raise UserError(f"'{text[:60]}': {len(source)} tokens; the longest text of the data has {longest}")
        batch = self._batch(rows)
        return batch._replace(target=torch.zeros(len(texts), self.lengths[1], dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return [text for given in inputs for text in (_lines(Path(given)) if names_a_file(given) else [given])]

    def _cased(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def example_inputs(self, count: int = 3) -> list[str]:
        return [source for source, _ in self.pairs()["test"][:count]]

    def texts(self, tokens: Tensor) -> list[str]:
        assert self.vocabularies is not None
        return [self.vocabularies[1].decode(row) for row in tokens.tolist()]

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabularies is not None
        return [{"prediction": self.vocabularies[1].decode(answer["tokens"])} for answer in answers]

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


def _lines(path: Path) -> list[str]:
    texts = [line.partition("\t")[0].strip() for line in read_lines(path) if line.strip()]
    if not texts:
        raise UserError(f"{path}: there is no text in this file")
    return texts


def _within(row: Row, longest: tuple[int, int]) -> bool:
    return len(row[0]) <= longest[0] and len(row[1]) <= longest[1]
