"""A text file of the user's, for language modelling by characters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.batches import Batch, LanguageBatch
from src.datamodules.base import DataModule
from src.datamodules.loader import BatchLoader
from src.datamodules.streams import in_streams
from src.datamodules.vocabulary import Vocabulary
from src.errors import UserError
from src.spec import DataSpec


class Text(DataModule):
    """Windows of a text, split in its own order: training first, then validation, then test.

    With `carry_state`, every split is cut into as many streams as a batch has rows, and row b of each batch is the next
    window of stream b: a recurrent network reads on where it was (truncated BPTT).

    Args:
        path: a text file in UTF-8.
        context: characters that the model sees at once; gradients reach no further.
        carry_state: batches in the order of the streams.
        val_fraction, test_fraction: shares of the text, its end.
        common: arguments of `DataModule`.
    """

    task = "language_modelling"
    inputs = "tokens"

    def __init__(
        self,
        path: Path,
        context: int = 64,
        carry_state: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path = Path(path)
        self.context = context
        self.carry_state = carry_state
        self.fractions = (val_fraction, test_fraction)
        self.vocabulary: Vocabulary | None = None

    def load(self) -> dict[str, Batch]:
        text = self._read()
        val, test = (round(len(text) * fraction) for fraction in self.fractions)
        begin, end = len(text) - val - test, len(text) - test
        if self.fold is not None:
            begin, end = self.fold.blocks(end)
        parts = {"train": text[:begin], "val": text[begin:end], "test": text[len(text) - test :]}
        if min(map(len, parts.values())) <= self.context:
            raise UserError(
                f"{self.path}: {len(text):,} characters are too few: every split needs more than "
                f"datamodule.context={self.context} (validation {end - begin:,}, test {test:,})"
            )
        if self.vocabulary is None:
            self.vocabulary = Vocabulary.of([parts["train"]])
        return {name: LanguageBatch(self._windows(part)) for name, part in parts.items()}

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: this is no text in UTF-8 (byte {error.start})") from error
        except OSError as error:
            raise UserError(f"{self.path}: this file cannot be read: {error.strerror}") from error

    def _windows(self, part: str) -> Tensor:
        """Cut into windows that share one token, so that every character but the first is predicted once."""
        assert self.vocabulary is not None
        tokens = torch.tensor(self.vocabulary.encode(part), dtype=torch.int64)
        return tokens.unfold(0, self.context + 1, self.context).contiguous()

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        loader = super().loader(name, shuffle and not self.carry_state, augment)
        if self.carry_state:
            loader.split = LanguageBatch(in_streams(self.split(name)[0], self.batch_size, loader.world_size))
        return loader

    @property
    def spec(self) -> DataSpec:
        assert self.vocabulary is not None
        size = len(self.vocabulary)
        return DataSpec(
            self.task, self.inputs, (self.context,), (size,), vocabulary_size=size, carry_state=self.carry_state
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """The input is one prompt that the model continues."""
        assert self.vocabulary is not None
        if len(inputs) != 1 or not inputs[0]:
            raise UserError("a language model continues one prompt of at least one character at a time")
        tokens = self.vocabulary.encode(inputs[0], warn=True)
        return LanguageBatch(torch.tensor([[*tokens, 0]], dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        text = self._read()
        return [text[-20:]]

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.vocabulary is not None
        return [{"prediction": self.vocabulary.decode(answer["tokens"])} for answer in answers]

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        assert self.vocabulary is not None
        return self.vocabulary.names(tokens)

    def state_dict(self) -> dict[str, Any]:
        return {"characters": self.vocabulary.characters} if self.vocabulary else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vocabulary = Vocabulary(state_dict["characters"])
