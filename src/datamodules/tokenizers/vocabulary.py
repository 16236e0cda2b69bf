"""Special tokens, padding, and the base class of vocabularies that are a list of tokens."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import ClassVar

import torch
from torch import Tensor

from src.core.resources import check_memory

log = logging.getLogger(__name__)

PADDING, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_VISIBLE = str.maketrans({" ": "␣", "\u00a0": "␣", "\u202f": "␣", "\n": "⏎", "\t": "⇥"})


def visible(text: str) -> str:
    """Return the visible form of a token: ␣ for a space, ⏎ for a line end."""
    return text.translate(_VISIBLE)


def before_end(tokens: Iterable[int]) -> list[int]:
    """Return the tokens before the first end or padding token."""
    return list(takewhile(lambda token: token not in (END, PADDING), tokens))


@dataclass(frozen=True)
class Vocabulary(ABC):
    """The tokens of the training data, after four special tokens.

    Args:
        tokens: the tokens in the order of their ids, which start at 4.
    """

    kind: ClassVar[str]
    separator: ClassVar[str]
    """Text between two tokens."""
    tokens: Sequence[str]

    @abstractmethod
    def split(self, text: str) -> Sequence[str]:
        """Divide a text into tokens."""

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens, len(SPECIAL))}

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.tokens)

    def encode(self, text: str, warn: bool = False) -> list[int]:
        """Return the token ids of a text; tokens that did not occur in training become <unknown>."""
        tokens = self.split(text)
        ids = [self._ids.get(token, UNKNOWN) for token in tokens]
        if warn and UNKNOWN in ids:
            unknown = sorted(set(tokens) - self._ids.keys())
            listing = ", ".join(map(repr, unknown[:10])) + (", …" if len(unknown) > 10 else "")
            log.warning(f"{self.kind} that did not occur in training are read as <unknown>: {listing}")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, up to the first end or padding token."""
        tokens = ("�" if i < len(SPECIAL) else self.tokens[i - len(SPECIAL)] for i in before_end(ids))
        return self.separator.join(tokens)

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the visible form of each token: ␣ for a space, ⏎ for a line end, the names of special tokens."""
        names = (*SPECIAL, *self.tokens)
        return [visible(names[i]) for i in ids]


def pad(rows: list[list[int]], length: int | None = None) -> Tensor:
    """Return rows of tokens [B, T], padded at the end to `length`, or to the longest row."""
    longest = max(map(len, rows)) if length is None else length
    check_memory(16 * len(rows) * longest, f"{len(rows):,} texts of {longest:,} tokens")
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.int64)


def trim_padding(tokens: Tensor) -> Tensor:
    """Remove the columns of [B, T] that are padding in every row."""
    return tokens[:, : int((tokens != PADDING).sum(1).max())]
