"""Text augmentation: synonyms from a WordNet, and back-translation with two runs (textbook, Data Augmentation)."""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from src.config.schema.regularization import BackTranslation as BackTranslationKnobs
from src.config.schema.regularization import Synonyms as SynonymsKnobs
from src.core.errors import UserError
from src.datamodules.tokenizers.vocabulary import UNKNOWN
from src.datamodules.tokenizers.words import WORD

log = logging.getLogger(__name__)

REPLACEMENT_CHARACTER = "�"
"""The character that a vocabulary decodes an unknown token to."""
MAX_UNKNOWN_WORD_SHARE = 0.5
"""Share of unknown words in paraphrases above which a warning is logged."""
TRANSLATION_BATCH_SIZE = 64
"""Number of sentences that are translated in one batch."""


class Translator(Protocol):
    """A trained translation model, such as `src.training.inference.Translator`."""

    checkpoint: Path
    task: str

    def encode(self, texts: Sequence[str]) -> Any:
        """Return texts as a batch."""

    def translate(self, batch: Any) -> list[str]:
        """Return the most likely translation of each text."""


LoadTranslator = Callable[[Path], Translator]


class TextAugmentation:
    """Replaces a text by a paraphrase, then words by synonyms, with random numbers of torch's generator.

    Args:
        synonyms, back_translation: their settings; each is skipped if it is disabled.
        load: loads a run or checkpoint that translates.
    """

    def __init__(self, synonyms: SynonymsKnobs, back_translation: BackTranslationKnobs, load: LoadTranslator) -> None:
        self._synonyms = Synonyms(synonyms.probability, synonyms.lexicon) if synonyms.enabled() else None
        self._back_translation = None
        if back_translation.enabled():
            assert back_translation.forward is not None and back_translation.backward is not None
            self._back_translation = BackTranslation(
                back_translation.forward, back_translation.backward, back_translation.probability, load
            )

    def fit(self, texts: Sequence[str]) -> None:
        """Prepare the paraphrases of the training texts."""
        if self._back_translation is not None:
            self._back_translation.fit(texts)

    def paraphrases(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs of each text and its paraphrase, from which a vocabulary is built; empty without back-translation."""
        if self._back_translation is None:
            return []
        return [(text, self._back_translation.paraphrases[text]) for text in texts]

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Return the synonyms that may replace a word, from which a vocabulary is built."""
        return () if self._synonyms is None else self._synonyms.synonyms_of(word)

    def __call__(self, text: str) -> str:
        """Return an augmented text."""
        if self._back_translation is not None:
            text = self._back_translation(text)
        return text if self._synonyms is None else self._synonyms(text)


class Synonyms:
    """Replaces words by synonyms from a WordNet (Wei and Zou 2019).

    Only words that are in the WordNet in exactly this form are replaced. English stop words, which a WordNet lists as
    chemical elements and the like, are never replaced. An initial capital is kept.

    Args:
        probability: probability to replace a word that has synonyms.
        lexicon: a WordNet of the package wn, such as ``oewn:2024`` or ``odenet:1.4``.

    Raises:
        UserError: if the package or the WordNet is not installed.
    """

    def __init__(self, probability: float, lexicon: str) -> None:
        try:
            import wn
        except ImportError as error:
            raise UserError(
                'regularization.synonyms needs the package wn: pip install -c constraints.txt -e ".[text]"'
            ) from error
        try:
            self._wordnet = wn.Wordnet(lexicon)
        except wn.Error as error:
            installed = ", ".join(sorted(lexicon.specifier() for lexicon in wn.lexicons())) or "none"
            raise UserError(
                f"regularization.synonyms.lexicon={lexicon}: this WordNet is not installed (installed: {installed}). "
                f"Install it with\n"
                f"  python -m wn download {lexicon}\n"
                f"python -m wn projects lists all WordNets. A WN-LMF file is installed without network by\n"
                f"  python -c \"import wn; wn.add('FILE')\""
            ) from error
        self.probability = probability
        self.synonyms_of = cache(self._look_up)

    def _look_up(self, word: str) -> tuple[str, ...]:
        """Return the lemmas, except the word itself, of all synsets of its lower-case form."""
        word = word.lower()
        if word in ENGLISH_STOP_WORDS:
            return ()
        lemmas = {lemma for synset in self._wordnet.synsets(word) for lemma in synset.lemmas()}
        return tuple(sorted(lemma for lemma in lemmas if lemma.lower() != word))

    def __call__(self, text: str) -> str:
        """Return the text with some of its words replaced, and the text between words unchanged."""
        return WORD.sub(self._replacement, text)

    def _replacement(self, match: re.Match[str]) -> str:
        """Return a random synonym of a matched word, or the word itself."""
        word = match[0]
        synonyms = self.synonyms_of(word)
        if not synonyms or torch.rand(()) >= self.probability:
            return word
        synonym = synonyms[int(torch.randint(len(synonyms), ()))]
        return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym


class BackTranslation:
    """Replaces texts by their translation to another language and back (Sennrich, Haddow and Birch 2016).

    Texts are translated sentence by sentence by the most likely tokens, once per run. A sentence that a translator cannot encode
    completely, because it is too long or contains unknown tokens, is unchanged; the number of such sentences is logged.

    Args:
        forward: a run or checkpoint that translates from the language of the texts.
        backward: one that translates back.
        probability: probability to replace a text.
        load: loads a run or checkpoint.

    Raises:
        UserError: if one is not a run or checkpoint, or is not a translation model.
    """

    def __init__(self, forward: Path, backward: Path, probability: float, load: LoadTranslator) -> None:
        self._translators: list[Translator] = []
        for key, path in (("forward", forward), ("backward", backward)):
            try:
                translator = load(path)
            except UserError as error:
                raise UserError(f"regularization.back_translation.{key}: {error}") from error
            if translator.task != "translation":
                raise UserError(
                    f"regularization.back_translation.{key}={path}: this run does {translator.task}, and not translation"
                )
            self._translators.append(translator)
        if self._translators[0].checkpoint.samefile(self._translators[1].checkpoint):
            raise UserError(f"regularization.back_translation: forward and backward are the same run, {forward}")
        self.probability = probability
        self.paraphrases: dict[str, str] = {}

    def fit(self, texts: Sequence[str]) -> None:
        """Translate the texts that have no paraphrase yet."""
        new = {text: sentences(text) for text in dict.fromkeys(texts) if text not in self.paraphrases}
        distinct = list(dict.fromkeys(sentence for parts in new.values() for sentence in parts))
        if not distinct:
            return
        log.info(f"back-translation of {len(distinct):,} sentences")
        results: list[str | None] = list(distinct)
        for key, translator in zip(("forward", "backward"), self._translators, strict=True):
            results = _translate(translator, results)
            if not any(results):
                raise UserError(
                    f"regularization.back_translation.{key}={translator.checkpoint}: this run can read none of the "
                    f"{len(distinct):,} sentences, such as '{distinct[0][:60]}': it was trained on other words or "
                    "another language"
                )
        _warn_of_unknown_words(distinct, results)
        untranslated = results.count(None)
        if untranslated:
            log.warning(
                f"back-translation: {untranslated:,} of {len(distinct):,} sentences cannot be translated completely and "
                "are not changed"
            )
        paraphrases = dict(zip(distinct, results, strict=True))
        for text, parts in new.items():
            self.paraphrases[text] = " ".join(paraphrases[part] or part for part in parts)

    def __call__(self, text: str) -> str:
        """Return a text of `fit` or its paraphrase."""
        return self.paraphrases[text] if torch.rand(()) < self.probability else text


def _warn_of_unknown_words(texts: Sequence[str], paraphrases: Sequence[str | None]) -> None:
    """Warn if most words of the paraphrases are in no text: translators of other texts or languages produce nonsense."""
    pairs = [(text, other) for text, other in zip(texts, paraphrases, strict=True) if other is not None]
    text_words = {word.lower() for text in texts for word in WORD.findall(text)}
    words = [word.lower() for _, paraphrase in pairs for word in WORD.findall(paraphrase)]
    unknown_share = sum(word not in text_words for word in words) / max(len(words), 1)
    if unknown_share > MAX_UNKNOWN_WORD_SHARE or not words:
        text, paraphrase = pairs[0]
        log.warning(
            "back-translation: %.0f %% of the words of the paraphrases are in none of the texts, such as '%s' for '%s'. "
            "Check that these runs were trained on similar texts and that backward reverses the direction of forward",
            100 * unknown_share,
            paraphrase,
            text,
        )


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: each ends with a full stop, question or exclamation mark before a space."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


def _translate(translator: Translator, texts: Sequence[str | None]) -> list[str | None]:
    """Return the translation of each text; None for None, and for a text that cannot be read or written completely."""
    readable: list[str] = []
    translations: dict[str, str] = {}
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # a translator warns of each unknown text; here they are counted
    try:
        for text in {text for text in texts if text is not None}:
            with suppress(UserError):
                if not (translator.encode([text]).inputs[0] == UNKNOWN).any():
                    readable.append(text)
        readable.sort(key=lambda text: (len(text), text))  # similar lengths in a batch need little padding
        for start in range(0, len(readable), TRANSLATION_BATCH_SIZE):
            batch = readable[start : start + TRANSLATION_BATCH_SIZE]
            translations |= dict(zip(batch, translator.translate(translator.encode(batch)), strict=True))
    finally:
        logging.disable(previous)
    complete = {text: result for text, result in translations.items() if result and REPLACEMENT_CHARACTER not in result}
    return [None if text is None else complete.get(text) for text in texts]
