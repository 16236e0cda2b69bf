"""Words as tokens."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from src.datamodules.preparation import flag, texts
from src.datamodules.tokenizers.characters import END, PADDING, SPECIAL, UNKNOWN

log = logging.getLogger(__name__)

WORD = re.compile(r"\w+(?:['’]\w+)*")
_TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")


def tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Return the words and punctuation marks of a text: "Don't!" becomes ``["don't", "!"]``."""
    return _TOKEN.findall(text.lower() if lowercase else text)


@dataclass(frozen=True)
class Words:
    """The words of the training data, after four special tokens, sorted by frequency.

    Args:
        words: the words in the order of their ids, which start at 4.
        lowercase: convert texts to lower case.
    """

    words: tuple[str, ...]
    lowercase: bool = True
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(self.words, len(SPECIAL))})

    @classmethod
    def of(cls, texts: Iterable[str], min_frequency: int = 1, lowercase: bool = True) -> "Words":
        """Return the vocabulary of the words that occur at least `min_frequency` times."""
        counts = Counter(token for text in texts for token in tokenize(text, lowercase))
        frequent = [(-count, word) for word, count in counts.items() if count >= min_frequency]
        return cls(tuple(word for _, word in sorted(frequent)), lowercase)

    def extended(self, texts: Iterable[str]) -> "Words":
        """Return this vocabulary with the additional words of the texts appended."""
        added = dict.fromkeys(token for text in texts for token in tokenize(text, self.lowercase))
        return Words(tuple(dict.fromkeys((*self.words, *added))), self.lowercase)

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, text: str, warn: bool = False) -> list[int]:
        """Return the tokens of a text; words that did not occur in training become <unknown>."""
        words = tokenize(text, self.lowercase)
        tokens = [self._ids.get(word, UNKNOWN) for word in words]
        if warn and UNKNOWN in tokens:
            unknown = sorted({word for word, token in zip(words, tokens, strict=True) if token == UNKNOWN})
            listing = ", ".join(unknown[:10]) + (", …" if len(unknown) > 10 else "")
            log.warning(f"words that did not occur in training are read as <unknown>: {listing}")
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the words of tokens, joined by spaces, up to the first end or padding token."""
        words = []
        for token in tokens:
            if token in (END, PADDING):
                break
            words.append("�" if token < len(SPECIAL) else self.words[token - len(SPECIAL)])
        return " ".join(words)

    def names(self, tokens: Iterable[int]) -> list[str]:
        """Return the word of each token, or the name of a special token."""
        names = (*SPECIAL, *self.words)
        return [names[token] for token in tokens]

    def to_plain(self) -> dict[str, Any]:
        return {"words": list(self.words), "lowercase": self.lowercase}

    @classmethod
    def from_plain(cls, plain: Any) -> "Words":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        return cls(texts(plain, "words"), flag(plain, "lowercase"))
