"""Characters as tokens."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from src.datamodules.preparation import text
from src.datamodules.tokenizers.vocabulary import Vocabulary


class Characters(Vocabulary):
    """The characters of the training data, sorted."""

    kind = "characters"
    separator = ""

    @classmethod
    def of(cls, texts: Iterable[str], min_frequency: int = 1) -> "Characters":
        """Return the vocabulary of the characters that occur at least `min_frequency` times."""
        counts = Counter(character for text in texts for character in text)
        return cls("".join(sorted(character for character, count in counts.items() if count >= min_frequency)))

    def split(self, text: str) -> str:
        return text

    def to_plain(self) -> dict[str, Any]:
        return {"characters": self.tokens}

    @classmethod
    def from_plain(cls, plain: Any) -> "Characters":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        return cls(text(plain, "characters"))
