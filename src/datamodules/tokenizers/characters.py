"""Characters as tokens."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from src.core.resources import check_memory
from src.datamodules.preparation import text

log = logging.getLogger(__name__)

PADDING, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_VISIBLE = str.maketrans({" ": "␣", "\u00a0": "␣", "\u202f": "␣", "\n": "⏎", "\t": "⇥"})


def visible(text: str) -> str:
    """Return the visible form of a token: ␣ for a space, ⏎ for a line end."""
    return text.translate(_VISIBLE)


@dataclass(frozen=True)
class Vocabulary:
    """The characters of the training data, after four special tokens.

    Args:
        characters: the characters in the order of their ids, which start at 4.
    """

    characters: str
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {c: i for i, c in enumerate(self.characters, len(SPECIAL))})

    @classmethod
    def of(cls, texts: Iterable[str], min_frequency: int = 1) -> "Vocabulary":
        """Return the vocabulary of the characters that occur at least `min_frequency` times."""
        counts = Counter(character for text in texts for character in text)
        return cls("".join(sorted(character for character, count in counts.items() if count >= min_frequency)))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.characters)

    def encode(self, text: str, warn: bool = False) -> list[int]:
        """Return the tokens of a text; characters that did not occur in training become <unknown>."""
        tokens = [self._ids.get(character, UNKNOWN) for character in text]
        if warn and UNKNOWN in tokens:
            unknown = sorted({c for c, t in zip(text, tokens, strict=True) if t == UNKNOWN})
            log.warning(
                f"characters that did not occur in training are read as <unknown>: {' '.join(map(repr, unknown))}"
            )
        return tokens

    def names(self, tokens: Iterable[int]) -> list[str]:
        """Return the visible form of each token: ␣ for a space, ⏎ for a line end, the names of special tokens."""
        names = (*SPECIAL, *self.characters)
        return [visible(names[token]) for token in tokens]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, up to the first end or padding token."""
        text = []
        for token in tokens:
            if token in (END, PADDING):
                break
            text.append("�" if token < len(SPECIAL) else self.characters[token - len(SPECIAL)])
        return "".join(text)

    def to_plain(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def from_plain(cls, plain: Any) -> "Vocabulary":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        return cls(text(plain, "characters"))


def pad(rows: list[list[int]], length: int | None = None) -> Tensor:
    """Return rows of tokens [B, T], padded at the end to `length`, or to the longest row."""
    longest = max(map(len, rows)) if length is None else length
    check_memory(16 * len(rows) * longest, f"{len(rows):,} texts of {longest:,} tokens")
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.int64)


def trim_padding(tokens: Tensor) -> Tensor:
    """Remove the columns of [B, T] that are padding in every row."""
    return tokens[:, : int((tokens != PADDING).sum(1).max())]
