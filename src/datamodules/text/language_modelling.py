"""A text file of the user's, for language modelling by characters or byte pairs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LanguageBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import fits
from src.datamodules.base import DataModule
from src.datamodules.io.delimited_text import read_text
from src.datamodules.io.numeric_table import names_a_file
from src.datamodules.loaders.in_memory import BatchLoader
from src.datamodules.text.stateful_batches import stream_order
from src.datamodules.tokenizers.characters import SPECIAL
from src.datamodules.tokenizers.factory import Tokens, from_plain, learned
from src.datamodules.tokenizers.memory_mapped import between, cut, pieces, tokens_on_disk
from src.tasks.naive_baseline import trivial_scores

BYTES_A_CHARACTER = {"characters": 15, "byte_pairs": 25}
"""What a character may take in memory while tokens are made of a text; 11 and 22 were measured on 20 MB (2026-11-26)."""
MAX_PROMPT_BYTES = 2**20
"""The largest file of a prompt, all of which goes through the model at once."""
COUNTED = 1 << 24
"""Tokens of a text on disk from which the trivial answer is counted."""


class Text(DataModule):
    """Windows of a text, split in its own order: training first, then validation, then test.

    With `carry_state`, every split is cut into as many streams as a batch has rows, and row b of each batch is the next
    window of stream b: a recurrent network reads on where it was (truncated BPTT).

    A text that takes more than `memory_share` of the free memory is read in pieces, and its tokens are kept on disk.

    Args:
        path: a text file in UTF-8.
        tokens: ``characters`` or ``byte_pairs``.
        vocabulary_size: tokens, for byte pairs.
        context: tokens that the model sees at once; gradients reach no further.
        carry_state: batches in the order of the streams.
        val_fraction, test_fraction: shares of the text's characters, its end.
        memory_share: of the free memory; 0 keeps every text on disk.
        common: arguments of `DataModule`.
    """

    task = "language_modelling"
    inputs = "tokens"

    def __init__(
        self,
        path: Path,
        tokens: str = "characters",
        vocabulary_size: int = 4000,
        context: int = 64,
        carry_state: bool = False,
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
        self.carry_state = carry_state
        self.fractions = (val_fraction, test_fraction)
        self.memory_share = memory_share
        self.vocabulary: Tokens | None = None
        self.on_disk = False

    def load(self) -> dict[str, Batch]:
        self.on_disk = self._is_large()
        self.movable = not self.on_disk
        tokens = self._from_disk() if self.on_disk else self._in_memory()
        for name, part in tokens.items():
            if len(part) <= self.context:
                raise UserError(
                    f"{self.path}: every split needs more tokens than datamodule.context={self.context}, and {name} "
                    f"has {len(part):,}"
                )
        return {name: LanguageBatch(self._windows(part)) for name, part in tokens.items()}

    def _is_large(self) -> bool:
        if not self.path.is_file():
            return False
        return not fits(
            BYTES_A_CHARACTER[self.tokens] * self.path.stat().st_size, self.memory_share, f"{self.path}, as tokens"
        )

    def _parts(self, length: int) -> dict[str, tuple[int, int]]:
        """Return the first character of each split and the one behind its last."""
        if self.whole:
            return {"test": (0, length)}
        val, test = (round(length * fraction) for fraction in self.fractions)
        if min(val, test, length - val - test) <= self.context:
            raise UserError(
                f"{self.path}: {length:,} characters are too few: every split needs more than "
                f"datamodule.context={self.context} (validation {val:,}, test {test:,})"
            )
        begin, end = length - val - test, length - test
        if self.fold is not None:
            begin, end = self.fold.blocks(length - test)
        return {"train": (0, begin), "val": (begin, end), "test": (length - test, length)}

    def _in_memory(self) -> dict[str, Tensor]:
        text = self._read()
        parts = self._parts(len(text))
        if self.vocabulary is None:
            self.vocabulary = self._learned(between(cut(text), *parts["train"]))
        tokens = {
            name: [np.array(self.vocabulary.encode(piece), dtype=np.int32) for piece in between(cut(text), *part)]
            for name, part in parts.items()
        }
        none = np.zeros(0, dtype=np.int32)
        return {name: torch.from_numpy(np.concatenate([none, *part])) for name, part in tokens.items()}

    def _from_disk(self) -> dict[str, Tensor]:
        parts = self._parts(sum(map(len, pieces(self.path))))
        settings = {"vocabulary_size": self.vocabulary_size}
        cache = self.write_dir / "tokens"
        self.vocabulary, tokens = tokens_on_disk(
            self.path, parts, self.tokens, settings, self.vocabulary, self._learned, cache
        )
        return tokens

    def _learned(self, texts: Iterable[str]) -> Tokens:
        return learned(self.tokens, texts, self.vocabulary_size, sentences=False)

    def _read(self) -> str:
        return read_text(self.path)

    def _windows(self, tokens: Tensor) -> Tensor:
        """Cut into windows that share one token, so that every token but the first is predicted once."""
        windows = tokens.unfold(0, self.context + 1, self.context)
        return windows if self.on_disk else windows.long().contiguous()

    def collate(self, batch: Batch) -> Batch:
        """Widen tokens that are kept on disk."""
        return LanguageBatch(batch[0].long())

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        loader = super().loader(name, shuffle and not self.carry_state, augment)
        if self.carry_state:
            loader.arrangement = stream_order(len(self.split(name)[0]), self.batch_size, loader.world_size)
            loader.training = False  # a lone last row goes on in its own stream, and joins no other batch
        return loader

    def baseline(self) -> dict[str, float]:
        """Return the scores of the frequencies in training; of a text on disk, in the first part of it."""
        if not self.on_disk:
            return super().baseline()
        few = {name: LanguageBatch(self.split(name)[0][: COUNTED // self.context].long()) for name in ("train", "test")}
        return trivial_scores(self.spec, few["train"], few["test"])

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
            carry_state=self.carry_state,
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """The input is one prompt that the model continues, or a text file that holds it."""
        assert self.vocabulary is not None
        prompt = inputs[0] if len(inputs) == 1 else ""
        if names_a_file(prompt):
            path = Path(prompt)
            prompt = read_text(path, MAX_PROMPT_BYTES)
            if not prompt:
                raise UserError(f"{path}: this file is empty; it holds the prompt to continue")
        if not prompt:
            raise UserError("a language model continues one prompt of at least one character at a time")
        tokens = self.vocabulary.encode(prompt, warn=True)
        return LanguageBatch(torch.tensor([[*tokens, 0]], dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [self._read()[-20:]]

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabulary is not None
        return [{"prediction": self.vocabulary.decode(answer["tokens"])} for answer in answers]

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        assert self.vocabulary is not None
        return self.vocabulary.names(tokens)

    def state_dict(self) -> dict[str, Any]:
        return self.vocabulary.to_plain() if self.vocabulary else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vocabulary = from_plain(self.tokens, state_dict)
