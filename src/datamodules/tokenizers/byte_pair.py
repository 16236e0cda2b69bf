"""Byte-pair encoding (Sennrich, Haddow and Birch 2016), trained with the package tokenizers."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from src.core.records import parse_json
from src.datamodules.preparation import DamagedPreparation, part, text
from src.datamodules.tokenizers.vocabulary import SPECIAL, before_end, visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class BytePairs:
    """A byte-level vocabulary: four special tokens, the single bytes, and frequent byte sequences. No text is unknown.

    Args:
        serialized: the trained tokenizer, in the JSON format of the package.
    """

    serialized: str

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer  # lazy: needed for byte pairs only

        tokenizer = Tokenizer.from_str(self.serialized)
        tokenizer.encode_special_tokens = True  # "<end>" in a text is five characters, not a token
        return tokenizer

    @classmethod
    def of(cls, texts: Iterable[str], size: int, min_frequency: int = 2, sentences: bool = True) -> "BytePairs":
        """Train the vocabulary by repeatedly merging the most frequent pair.

        Args:
            texts: texts of the training split.
            size: number of tokens, including the 256 bytes and the special tokens; fewer if no pairs are left.
            min_frequency: less frequent pairs are not merged.
            sentences: True: a space is added before each text, so that its first word has the same token as elsewhere;
                False: the texts are chunks of one text and are not changed.
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
        """Return the tokens of a text; `warn` has no effect, because no text is unknown."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, up to the first end or padding token; invalid UTF-8 becomes �."""
        text = self._tokenizer.decode(before_end(tokens), skip_special_tokens=True)
        return text.removeprefix(" ") if self._tokenizer.pre_tokenizer.add_prefix_space else text

    def names(self, tokens: Iterable[int]) -> list[str]:
        """Return the visible form of each token: ␣ for a space, ⏎ for a line end, the names of special tokens."""
        return [
            SPECIAL[token] if token < len(SPECIAL) else visible(self._tokenizer.decode([token])) for token in tokens
        ]

    def to_plain(self) -> dict[str, Any]:
        return {"tokenizer": self.serialized}

    @classmethod
    def from_plain(cls, plain: Any) -> "BytePairs":
        """Restore the result of `to_plain`; raise `UserError` if it is damaged."""
        serialized = text(plain, "tokenizer")
        parsed = parse_json(serialized, "the byte pairs in this checkpoint")
        if not isinstance(parsed, dict):
            raise DamagedPreparation("the byte pairs are not an object")
        types = [part(part(parsed, key), "type") for key in ("model", "pre_tokenizer", "decoder")]
        others = [parsed.get(key) for key in ("normalizer", "post_processor", "truncation", "padding")]
        if types != ["BPE", "ByteLevel", "ByteLevel"] or any(value is not None for value in others):
            raise DamagedPreparation("the byte pairs have an unknown type")
        options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        if any(parsed["model"].get(option) is not None for option in options):
            raise DamagedPreparation("the byte pairs have options that no training sets")
        byte_pairs = cls(serialized)
        try:
            if set(byte_pairs._tokenizer.get_vocab().values()) != set(range(len(byte_pairs))):
                raise ValueError("their numbers have gaps")
        except BaseException as error:  # Rust panics are not subclasses of `Exception`
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise DamagedPreparation(f"the byte pairs cannot be read ({str(error)[:100]})") from error
        return byte_pairs
