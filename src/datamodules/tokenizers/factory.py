"""The ways to cut a text into tokens: characters, words, or byte pairs; all are learned from training texts."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from src.datamodules.tokenizers.byte_pair import BytePairs
from src.datamodules.tokenizers.characters import Vocabulary
from src.datamodules.tokenizers.words import Words

Tokens: TypeAlias = Vocabulary | Words | BytePairs

KINDS: dict[str, type[Vocabulary] | type[Words] | type[BytePairs]] = {
    "characters": Vocabulary,
    "words": Words,
    "byte_pairs": BytePairs,
}


def learned(kind: str, texts: Iterable[str], size: int, min_frequency: int = 1, sentences: bool = True) -> Tokens:
    """Learn the tokens of training texts.

    Args:
        kind: ``characters``, ``words`` or ``byte_pairs``.
        texts: of the training split.
        size: tokens of a byte-pair vocabulary; the others take all that are frequent enough.
        min_frequency: what occurs more rarely is unknown; a pair of bytes is not merged.
        sentences: see `BytePairs.of`.
    """
    if kind == "byte_pairs":
        return BytePairs.of(texts, size, min_frequency, sentences)
    return Words.of(texts, min_frequency, lowercase=False) if kind == "words" else Vocabulary.of(texts, min_frequency)


def from_plain(kind: str, plain: dict[str, Any]) -> Tokens:
    """Read back what `to_plain` of that kind wrote."""
    return KINDS[kind].from_plain(plain)
