"""Characters as tokens."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

PADDING, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_VISIBLE = str.maketrans({" ": "␣", "\u00a0": "␣", "\u202f": "␣", "\n": "⏎", "\t": "⇥"})


@dataclass(frozen=True)
class Vocabulary:
    """The characters of the training data, after four special tokens.

    Args:
        characters: in the order of their ids, which start at 4.
    """

    characters: str
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {c: i for i, c in enumerate(self.characters, len(SPECIAL))})

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        return cls("".join(sorted(set().union(*map(set, texts)))))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.characters)

    def encode(self, text: str, warn: bool = False) -> list[int]:
        """Return the tokens of a text; characters that training has not seen become <unknown>."""
        tokens = [self._ids.get(character, UNKNOWN) for character in text]
        if warn and UNKNOWN in tokens:
            strange = sorted({c for c, t in zip(text, tokens, strict=True) if t == UNKNOWN})
            log.warning(f"characters that training has not seen are read as <unknown>: {' '.join(map(repr, strange))}")
        return tokens

    def names(self, tokens: Iterable[int]) -> list[str]:
        """Return each token as it can be seen: a space as ␣, a line's end as ⏎, special tokens by their names."""
        known = (*SPECIAL, *self.characters)
        return [known[token].translate(_VISIBLE) for token in tokens]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, up to the first end or padding."""
        text = []
        for token in tokens:
            if token in (END, PADDING):
                break
            text.append("�" if token < len(SPECIAL) else self.characters[token - len(SPECIAL)])
        return "".join(text)
