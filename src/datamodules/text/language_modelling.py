"""A text file of the user, for language modelling with characters or byte pairs."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LanguageBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import fits_in_memory
from src.datamodules.base import DataModule
from src.datamodules.io.delimited_text import read_text
from src.datamodules.io.numeric_table import is_file_path
from src.datamodules.loaders.in_memory import BatchLoader
from src.datamodules.text.stateful_batches import stateful_batch_order
from src.datamodules.tokenizers.factory import Tokens, fit_tokenizer, from_plain
from src.datamodules.tokenizers.memory_mapped import read_chunks, slice_chunks, split_chunks, tokens_on_disk
from src.datamodules.tokenizers.vocabulary import SPECIAL
from src.tasks.naive_baseline import score_naive_baseline

BYTES_PER_CHARACTER = {"characters": 15, "byte_pairs": 25}
"""Memory per character while a text is tokenized; 11 and 22 were measured on 20 MB (2026-11-26)."""
MAX_PROMPT_BYTES = 2**20
"""Largest prompt file; the model processes it as a whole."""
BASELINE_TOKENS = 1 << 24
"""Tokens of a text on disk from which the naive baseline is computed."""


class Text(DataModule):
    """Windows of a text, split in text order: training first, then validation, then test.

    With `stateful`, every split is divided into as many streams as a batch has rows, and row b of each batch is the next
    window of stream b, so that a recurrent network continues with its previous state (truncated BPTT).

    A text that needs more than `memory_share` of the free memory is read in chunks, and its tokens are stored on disk.

    Args:
        path: a text file in UTF-8.
        tokens: ``characters`` or ``byte_pairs``.
        vocabulary_size: number of tokens, for byte pairs.
        context: number of input tokens; also the length of backpropagation.
        stateful: order the batches as streams.
        val_fraction, test_fraction: shares of the characters, at the end of the text.
        memory_share: share of the free memory; 0 always stores the tokens on disk.
        common: arguments of `DataModule`.
    """

    task = "language_modelling"
    inputs = "tokens"
    supports_folds = True

    def __init__(
        self,
        path: Path,
        tokens: str = "characters",
        vocabulary_size: int = 4000,
        context: int = 64,
        stateful: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        memory_share: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path = Path(path)
        self.tokens = tokens
        self.vocabulary_size = vocabulary_size
        self.context = context
        self.stateful = stateful
        self.fractions = (val_fraction, test_fraction)
        self.memory_share = memory_share
        self.vocabulary: Tokens | None = None
        self.on_disk = False

    def load(self) -> dict[str, Batch]:
        self.on_disk = self.path.is_file() and not fits_in_memory(
            BYTES_PER_CHARACTER[self.tokens] * self.path.stat().st_size, self.memory_share, f"{self.path}, as tokens"
        )
        self.movable = not self.on_disk
        tokens = self._from_disk() if self.on_disk else self._in_memory()
        splits: dict[str, Batch] = {}
        for name, part in tokens.items():
            if len(part) <= self.context:
                raise UserError(
                    f"{self.path}: every split needs more tokens than datamodule.context={self.context}, and {name} "
                    f"has {len(part):,}"
                )
            # Windows overlap by one token, so that every token but the first is predicted once.
            windows = part.unfold(0, self.context + 1, self.context)
            splits[name] = LanguageBatch(windows if self.on_disk else windows.long().contiguous())
        return splits

    def _split_ranges(self, length: int) -> dict[str, tuple[int, int]]:
        """Return start and end of each split in characters."""
        if self.whole:
            return {"test": (0, length)}
        val, test = (round(length * fraction) for fraction in self.fractions)
        if min(val, test, length - val - test) <= self.context:
            raise UserError(
                f"{self.path}: {length:,} characters are too few: every split needs more than "
                f"datamodule.context={self.context} (validation {val:,}, test {test:,})"
            )
        start, end = length - val - test, length - test
        if self.fold is not None:
            start, end = self.fold.blocks(length - test)
        return {"train": (0, start), "val": (start, end), "test": (length - test, length)}

    def _in_memory(self) -> dict[str, Tensor]:
        text = self._read()
        ranges = self._split_ranges(len(text))
        if self.vocabulary is None:
            training = slice_chunks(split_chunks(text), *ranges["train"])
            self.vocabulary = fit_tokenizer(self.tokens, training, self.vocabulary_size, sentences=False)
        tokens = {}
        for name, (start, end) in ranges.items():
            chunks = slice_chunks(split_chunks(text), start, end)
            ids = chain.from_iterable(map(self.vocabulary.encode, chunks))
            tokens[name] = torch.from_numpy(np.fromiter(ids, dtype=np.int32))
        return tokens

    def _from_disk(self) -> dict[str, Tensor]:
        ranges = self._split_ranges(sum(map(len, read_chunks(self.path))))
        self.vocabulary, tokens = tokens_on_disk(
            self.path, ranges, self.tokens, self.vocabulary_size, self.vocabulary, self.write_dir / "tokens"
        )
        return tokens

    def _read(self) -> str:
        return read_text(self.path)

    def collate(self, batch: Batch) -> Batch:
        """Convert tokens from disk to int64."""
        return LanguageBatch(batch[0].long())

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        loader = super().loader(name, shuffle and not self.stateful, augment)
        if not self.stateful:
            return loader
        order = stateful_batch_order(len(self.split(name)[0]), self.batch_size, loader.world_size)
        return replace(loader, arrangement=order, training=False)  # a last batch of one row continues its own stream

    def baseline(self) -> dict[str, float]:
        """Return the metrics of the unigram frequencies of training; for a text on disk, of its first part."""
        if not self.on_disk:
            return super().baseline()
        batches = {
            name: LanguageBatch(self.split(name)[0][: BASELINE_TOKENS // self.context].long())
            for name in ("train", "test")
        }
        return score_naive_baseline(self.spec, batches["train"], batches["test"])

    @property
    def spec(self) -> DataSpec:
        assert self.vocabulary is not None
        size = len(self.vocabulary)
        return DataSpec(
            self.task,
            self.inputs,
            (self.context,),
            (size,),
            vocabulary_size=size,
            reserved_tokens=len(SPECIAL),
            stateful=self.stateful,
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """The input is one prompt that the model continues, or a text file with the prompt."""
        assert self.vocabulary is not None
        prompt = inputs[0] if len(inputs) == 1 else ""
        if is_file_path(prompt):
            path = Path(prompt)
            prompt = read_text(path, MAX_PROMPT_BYTES)
            if not prompt:
                raise UserError(f"{path}: this file is empty; it must contain the prompt")
        if not prompt:
            raise UserError("a language model needs exactly one prompt of at least one character")
        tokens = self.vocabulary.encode(prompt, warn=True)
        return LanguageBatch(torch.tensor([[*tokens, 0]], dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [self._read()[-20:]]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabulary is not None
        return [{"prediction": self.vocabulary.decode(prediction["tokens"])} for prediction in predictions]

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        assert self.vocabulary is not None
        return self.vocabulary.names(tokens)

    def state_dict(self) -> dict[str, Any]:
        return self.vocabulary.to_plain() if self.vocabulary else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vocabulary = from_plain(self.tokens, state_dict)
