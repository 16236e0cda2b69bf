"""Byte-pair tokens, learned from the training texts (Sennrich, Haddow and Birch 2016), by the package tokenizers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src.core.records import parse_json
from src.datamodules.preparation import DamagedPreparation, part, text
from src.datamodules.tokenizers.characters import END, PADDING, SPECIAL, visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = 256


@dataclass(frozen=True)
class BytePairs:
    """Sequences of bytes that occur often, after four special tokens and the single bytes: no text is unknown.

    Args:
        serialized: the learned tokenizer, as the package writes it in JSON.
    """

    serialized: str
    _tokenizer: "Tokenizer" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.serialized)
        tokenizer.encode_special_tokens = True  # a text that holds "<end>" means these five characters
        object.__setattr__(self, "_tokenizer", tokenizer)

    @classmethod
    def of(cls, texts: Iterable[str], size: int, min_frequency: int = 2, sentences: bool = True) -> "BytePairs":
        """Merge the most frequent pair again and again.

        Args:
            texts: of the training split.
            size: tokens in all, with the 256 bytes and the special tokens; fewer where the texts have no more pairs.
            min_frequency: a pair that occurs more rarely is not merged.
            sentences: each text begins with a word, which is the same token there as behind a space; else texts are
                pieces of one, and their beginnings are kept as they are.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=sentences)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_frequency,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, warn: bool = False) -> list[int]:
        """Return the tokens of a text; there is nothing to warn of."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, up to the first end or padding; bytes that are no character become �."""
        kept = []
        for token in tokens:
            if token in (END, PADDING):
                break
            kept.append(token)
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text.removeprefix(" ") if self._tokenizer.pre_tokenizer.add_prefix_space else text

    def names(self, tokens: Iterable[int]) -> list[str]:
        """Return each token as it can be seen: a space as ␣, a line's end as ⏎, special tokens by their names."""
        return [
            SPECIAL[token] if token < len(SPECIAL) else visible(self._tokenizer.decode([token])) for token in tokens
        ]

    def to_plain(self) -> dict[str, Any]:
        return {"tokenizer": self.serialized}

    @classmethod
    def from_plain(cls, plain: Any) -> "BytePairs":
        """Read back what `to_plain` wrote; `UserError` if it has been damaged since."""
        serialized = text(plain, "tokenizer")
        parsed = parse_json(serialized, "the byte pairs in this checkpoint")
        if not isinstance(parsed, dict):
            raise DamagedPreparation("the byte pairs are not an object")
        kinds = [part(part(parsed, key), "type") for key in ("model", "pre_tokenizer", "decoder")]
        rest = [parsed.get(key) for key in ("normalizer", "post_processor", "truncation", "padding")]
        if kinds != ["BPE", "ByteLevel", "ByteLevel"] or any(value is not None for value in rest):
            raise DamagedPreparation("the byte pairs are of another kind")
        try:
            return cls(serialized)
        except BaseException as error:  # also Rust's panics, which are no `Exception`
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise DamagedPreparation(f"the byte pairs cannot be read ({str(error)[:100]})") from error
