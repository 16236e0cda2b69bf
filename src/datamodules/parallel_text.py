"""Pairs of texts of the user's, for translation: two files line by line, or one of two columns."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.batches import Batch, TranslationBatch
from src.datamodules.base import DataModule
from src.datamodules.records import read_text
from src.datamodules.splitting import split_indices
from src.datamodules.vocabulary import END, PADDING, START, Vocabulary, cut_padding, padded
from src.datamodules.words import Words, tokenize
from src.errors import UserError
from src.spec import DataSpec

log = logging.getLogger(__name__)

Pair = tuple[str, str]


class ParallelText(DataModule):
    """Texts and their translations, read by characters or by words.

    Args:
        path: the texts, one a line; without `target_path`, each line has its translation behind a tab.
        target_path: the translations, line by line.
        tokens: ``characters`` or ``words``.
        lowercase: read every text in small letters.
        min_frequency: a word, or character, that occurs more rarely in training is unknown.
        max_length: pairs with more tokens on one side are left out, and the log says how many.
        split_seed: draws the splits.
        val_fraction, test_fraction: their shares.
        common: arguments of `DataModule`.
    """

    task = "translation"
    inputs = "tokens"

    def __init__(
        self,
        path: Path,
        target_path: Path | None = None,
        tokens: str = "words",
        lowercase: bool = False,
        min_frequency: int = 1,
        max_length: int = 100,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.target_path = Path(path), Path(target_path) if target_path else None
        self.tokens = tokens
        self.lowercase = lowercase
        self.min_frequency = min_frequency
        self.max_length = max_length
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self.vocabularies: tuple[Vocabulary | Words, Vocabulary | Words] | None = None
        self.lengths = (0, 0)

    def load(self) -> dict[str, Batch]:
        parts = self._parts()
        if self.vocabularies is None:
            source, target = (self._vocabulary([pair[side] for pair in parts["train"]]) for side in (0, 1))
            self.vocabularies = (source, target)
            pairs = [pair for part in parts.values() for pair in part]
            longest = [max(len(v.encode(pair[side])) for pair in pairs) for side, v in enumerate(self.vocabularies)]
            self.lengths = (longest[0] + 1, longest[1] + 2)  # with end, and with start and end
        return {name: self._batch(part) for name, part in parts.items()}

    def _vocabulary(self, texts: Sequence[str]) -> Vocabulary | Words:
        if self.tokens == "words":
            return Words.of(texts, self.min_frequency, lowercase=False)
        return Vocabulary.of(texts, self.min_frequency)

    def _parts(self) -> dict[str, list[Pair]]:
        pairs = self._pairs()
        longest = (self.max_length, self.max_length)
        if self.vocabularies is not None:  # what the model was trained for
            longest = (self.lengths[0] - 1, self.lengths[1] - 2)
        sized = [(pair, [len(self._split(text)) for text in pair]) for pair in pairs]
        short = [pair for pair, (source, target) in sized if source <= longest[0] and target <= longest[1]]
        if not short:
            raise UserError(f"{self.path}: every pair has more tokens than datamodule.max_length={self.max_length}")
        if len(short) < len(pairs):
            left, most = len(pairs) - len(short), " and ".join(map(str, dict.fromkeys(longest)))
            log.warning(f"{self.path}: {left:,} of {len(pairs):,} pairs are left out, longer than {most} tokens")
        parts = split_indices(len(short), *self.fractions, self.split_seed, fold=self.fold)
        return {name: [short[i] for i in index] for name, index in parts.items()}

    def _split(self, text: str) -> Sequence[str]:
        return tokenize(text, lowercase=False) if self.tokens == "words" else text

    def _pairs(self) -> list[Pair]:
        sources = self._lines(self.path)
        if self.target_path is not None:
            targets = self._lines(self.target_path)
            if len(sources) != len(targets):
                raise UserError(
                    f"{self.path} has {len(sources):,} lines and {self.target_path} has {len(targets):,}: "
                    "line by line, each is the translation of the other"
                )
            rows = list(zip(sources, targets, strict=True))
        else:
            rows = []
            for number, line in enumerate(sources, 1):
                cells = line.split("\t")
                if line.strip() and len(cells) != 2:
                    raise UserError(
                        f"{self.path}, row {number}: {len(cells)} columns between tabs where there are 2, a text and its "
                        "translation; a file of translations alone is datamodule.target_path"
                    )
                rows.append((cells[0], cells[-1]))
        pairs = []
        for number, (source, target) in enumerate(rows, 1):
            pair = (source.strip(), target.strip())
            if all(pair):
                pairs.append(pair)
            elif any(pair):
                empty = self.path if not pair[0] or self.target_path is None else self.target_path
                raise UserError(f"{empty}, row {number}: one side of this pair is empty")
        if not pairs:
            raise UserError(f"{self.path}: there are no pairs in this file")
        return pairs

    def _lines(self, path: Path) -> list[str]:
        text = read_text(path).rstrip("\r\n")
        return [line.rstrip("\r") for line in (text.lower() if self.lowercase else text).split("\n")]

    def _batch(self, pairs: Sequence[Pair], warn: bool = False) -> TranslationBatch:
        assert self.vocabularies is not None
        source, target = self.vocabularies
        return TranslationBatch(
            padded([[*source.encode(text, warn), END] for text, _ in pairs]),
            padded([[START, *target.encode(text), END] for _, text in pairs], self.lengths[1]),
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
        """Each input is a text to translate."""
        texts = [(text.lower() if self.lowercase else text).strip() for text in inputs]
        batch = self._batch([(text, "") for text in texts], warn=True)
        for text, row in zip(texts, batch.source, strict=True):
            if not text:
                raise UserError("an empty input cannot be translated")
            if (count := int((row != PADDING).sum())) > self.lengths[0]:
                longest = self.lengths[0] - 1
                raise UserError(f"'{text[:60]}': {count - 1} tokens; the longest text of the data has {longest}")
        return batch._replace(target=torch.zeros(len(texts), self.lengths[1], dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [source for source, _ in self._parts()["test"][:count]]

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabularies is not None
        return [{"prediction": self.vocabularies[1].decode(answer["tokens"])} for answer in answers]

    def state_dict(self) -> dict[str, Any]:
        if self.vocabularies is None:
            return {}
        source, target = (vocabulary.to_plain() for vocabulary in self.vocabularies)
        return {"source": source, "target": target, "lengths": list(self.lengths)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        kind = Words if self.tokens == "words" else Vocabulary
        self.vocabularies = (kind.from_plain(state_dict["source"]), kind.from_plain(state_dict["target"]))
        source, target = state_dict["lengths"]
        self.lengths = (source, target)
