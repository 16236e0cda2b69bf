"""Words as tokens."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from src.datamodules.preparation import flag, texts
from src.datamodules.tokenizers.vocabulary import Vocabulary

WORD = re.compile(r"\w+(?:['’]\w+)*")
_TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")


def tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Return the words and punctuation marks of a text: "Don't!" becomes ``["don't", "!"]``."""
    return _TOKEN.findall(text.lower() if lowercase else text)


@dataclass(frozen=True)
class Words(Vocabulary):
    """The words of the training data, sorted by frequency.

    Args:
        tokens: see `Vocabulary`.
        lowercase: convert texts to lower case.
    """

    kind = "words"
    separator = " "
    lowercase: bool = True

    @classmethod
    def of(cls, texts: Iterable[str], min_frequency: int = 1, lowercase: bool = True) -> "Words":
        """Return the vocabulary of the words that occur at least `min_frequency` times."""
        counts = Counter(token for text in texts for token in tokenize(text, lowercase))
        frequent = [(-count, word) for word, count in counts.items() if count >= min_frequency]
        return cls(tuple(word for _, word in sorted(frequent)), lowercase)

    def extended(self, texts: Iterable[str]) -> "Words":
        """Return this vocabulary with the additional words of the texts appended."""
        added = (token for text in texts for token in self.split(text))
        return Words(tuple(dict.fromkeys((*self.tokens, *added))), self.lowercase)

    def split(self, text: str) -> list[str]:
        return tokenize(text, self.lowercase)

    def to_plain(self) -> dict[str, Any]:
        return {"words": list(self.tokens), "lowercase": self.lowercase}

    @classmethod
    def from_plain(cls, plain: Any) -> "Words":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        return cls(texts(plain, "words"), flag(plain, "lowercase"))
