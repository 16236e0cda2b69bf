"""Create a tokenizer from training texts or from a recorded state: characters, words, or byte pairs."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from src.datamodules.tokenizers.byte_pair import BytePairs
from src.datamodules.tokenizers.characters import Characters
from src.datamodules.tokenizers.words import Words

Tokens: TypeAlias = Characters | Words | BytePairs

KINDS: dict[str, type[Characters] | type[Words] | type[BytePairs]] = {
    "characters": Characters,
    "words": Words,
    "byte_pairs": BytePairs,
}


def fit_tokenizer(kind: str, texts: Iterable[str], size: int, min_frequency: int = 1, sentences: bool = True) -> Tokens:
    """Fit a tokenizer to training texts.

    Args:
        kind: ``characters``, ``words`` or ``byte_pairs``.
        texts: texts of the training split.
        size: size of a byte-pair vocabulary; the others contain all sufficiently frequent tokens.
        min_frequency: less frequent tokens are unknown; less frequent byte pairs are not merged.
        sentences: see `BytePairs.of`.
    """
    if kind == "byte_pairs":
        return BytePairs.of(texts, size, min_frequency, sentences)
    return Words.of(texts, min_frequency, lowercase=False) if kind == "words" else Characters.of(texts, min_frequency)


def from_plain(kind: str, plain: dict[str, Any]) -> Tokens:
    """Restore a tokenizer of a kind from the result of its `to_plain`."""
    return KINDS[kind].from_plain(plain)
