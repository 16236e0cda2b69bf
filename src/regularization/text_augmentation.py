"""Text augmentation: synonyms from a WordNet, and back-translation through two runs (textbook, Data Augmentation)."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from src.config.schema.regularization import BackTranslation as BackTranslationKnobs
from src.config.schema.regularization import Synonyms as SynonymsKnobs
from src.core.errors import UserError
from src.datamodules.tokenizers.characters import UNKNOWN
from src.datamodules.tokenizers.words import WORD

log = logging.getLogger(__name__)

UNREADABLE = "�"
"""What a vocabulary makes of an unknown token."""
MOST_FOREIGN = 0.5
"""Share of the words of paraphrases that may stand in no text, before it is said."""
AT_ONCE = 64
"""Sentences that are translated at once."""


class Translator(Protocol):
    """A trained model that translates; `src.training.inference.Translator` is one."""

    checkpoint: Path
    task: str

    def encode(self, texts: Sequence[str]) -> Any:
        """Return texts as a batch."""

    def translate(self, batch: Any) -> list[str]:
        """Return the likeliest translation of each text."""


LoadTranslator = Callable[[Path], Translator]


class TextAugmentation:
    """Paraphrases a text as a whole, then words of it, each time as drawn from torch's generator.

    Args:
        synonyms, back_translation: how strongly, and with what; each is left out where it is off.
        load: loads a run or checkpoint that translates.
    """

    def __init__(self, synonyms: SynonymsKnobs, back_translation: BackTranslationKnobs, load: LoadTranslator) -> None:
        self._synonyms = Synonyms(synonyms.probability, synonyms.lexicon) if synonyms.chosen() else None
        self._back = None
        if back_translation.forward is not None and back_translation.backward is not None:
            self._back = BackTranslation(
                back_translation.forward, back_translation.backward, back_translation.probability, load
            )

    def fit(self, texts: Sequence[str]) -> None:
        """Prepare for the texts of training."""
        if self._back is not None:
            self._back.fit(texts)

    def paraphrases(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return each text with the one that may stand in its place, if there are such, for a vocabulary."""
        return [] if self._back is None else [(text, self._back.found[text]) for text in texts]

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Return what may stand in the place of a word, for a vocabulary."""
        return () if self._synonyms is None else self._synonyms.of(word)

    def __call__(self, text: str) -> str:
        """Return a text of the same meaning."""
        if self._back is not None:
            text = self._back(text)
        return text if self._synonyms is None else self._synonyms(text)


class Synonyms:
    """Replaces words by others that share a meaning with them in a WordNet (Wei and Zou 2019).

    Words are replaced that stand in the WordNet as they are written; stop words of English, which it takes for
    chemical elements and the like, never. A capital at the beginning is kept.

    Args:
        probability: to replace a word that has synonyms.
        lexicon: a WordNet that the package wn has, such as ``oewn:2024`` or ``odenet:1.4``.

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
            there = ", ".join(sorted(found.specifier() for found in wn.lexicons())) or "none"
            raise UserError(
                f"regularization.synonyms.lexicon={lexicon}: this WordNet is not installed (installed: {there}). Once:\n"
                f"  python -m wn download {lexicon}\n"
                f"python -m wn projects lists what there is. A file in WN-LMF is installed without network by\n"
                f"  python -c \"import wn; wn.add('FILE')\""
            ) from error
        self.probability = probability
        self.of = cache(self._look_up)

    def _look_up(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word, in small letters where it is, without itself."""
        word = word.lower()
        if word in ENGLISH_STOP_WORDS:
            return ()
        found = {lemma for synset in self._wordnet.synsets(word) for lemma in synset.lemmas()}
        return tuple(sorted(lemma for lemma in found if lemma.lower() != word))

    def __call__(self, text: str) -> str:
        """Return the text with some of its words replaced; nothing between them changes."""
        return WORD.sub(self._maybe, text)

    def _maybe(self, match: re.Match[str]) -> str:
        word = match[0]
        choices = self.of(word)
        if not choices or torch.rand(()) >= self.probability:
            return word
        chosen = choices[int(torch.randint(len(choices), ()))]
        return chosen[0].upper() + chosen[1:] if word[0].isupper() else chosen


class BackTranslation:
    """Replaces texts by what two translations, there and back, make of them (Sennrich, Haddow and Birch 2016).

    Texts are translated sentence by sentence, by the likeliest tokens, once a run. A sentence that a translator cannot
    read whole, because it is too long or holds unknown tokens, stays as it is, and the log says how many do.

    Args:
        forward: a run or checkpoint that translates from the language of the texts, as a user names it.
        backward: one that translates back.
        probability: to replace a text.
        load: loads one of them.

    Raises:
        UserError: if one is no run, or does not translate.
    """

    def __init__(self, forward: Path, backward: Path, probability: float, load: LoadTranslator) -> None:
        self._way = (_translator(load, forward, "forward"), _translator(load, backward, "backward"))
        if self._way[0].checkpoint.samefile(self._way[1].checkpoint):
            raise UserError(f"regularization.back_translation: forward and backward are the same run, {forward}")
        self.probability = probability
        self.found: dict[str, str] = {}

    def fit(self, texts: Sequence[str]) -> None:
        """Translate the texts that are new."""
        new = {text: sentences(text) for text in dict.fromkeys(texts) if text not in self.found}
        distinct = list(dict.fromkeys(sentence for parts in new.values() for sentence in parts))
        if not distinct:
            return
        log.info(f"back-translation of {len(distinct):,} sentences")
        results: list[str | None] = list(distinct)
        for key, translator in zip(("forward", "backward"), self._way, strict=True):
            results = _translated(translator, results)
            if not any(results):
                raise UserError(
                    f"regularization.back_translation.{key}={translator.checkpoint}: this run can read none of the "
                    f"{len(distinct):,} sentences, such as '{distinct[0][:60]}': it was trained on other words or a "
                    "language of its own"
                )
        _warn_of_foreign_words(distinct, results)
        kept = results.count(None)
        if kept:
            log.warning(
                f"back-translation: {kept:,} of {len(distinct):,} sentences cannot be translated whole and stay"
            )
        paraphrase = {own: own if other is None else other for own, other in zip(distinct, results, strict=True)}
        self.found |= {text: " ".join(paraphrase[part] for part in parts) for text, parts in new.items()}

    def __call__(self, text: str) -> str:
        """Return the text or its paraphrase; `fit` has seen it."""
        return self.found[text] if torch.rand(()) < self.probability else text


def _warn_of_foreign_words(before: Sequence[str], after: Sequence[str | None]) -> None:
    """A translator of other texts, or of another language, makes nonsense of a sentence that it can read."""
    pairs = [(own, other) for own, other in zip(before, after, strict=True) if other is not None]
    known = {word.lower() for text in before for word in WORD.findall(text)}
    words = [word.lower() for _, other in pairs for word in WORD.findall(other)]
    foreign = sum(word not in known for word in words) / max(len(words), 1)
    if foreign > MOST_FOREIGN or not words:
        log.warning(
            "back-translation: %.0f %% of the words that come back stand in none of the texts, such as '%s' for '%s': "
            "were these runs trained on such texts, and is backward the way back of forward?",
            100 * foreign,
            pairs[0][1],
            pairs[0][0],
        )


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: each ends with a full stop, question or exclamation mark before a space."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


def _translator(load: LoadTranslator, path: Path, key: str) -> Translator:
    try:
        loaded = load(path)
    except UserError as error:
        raise UserError(f"regularization.back_translation.{key}: {error}") from error
    task = loaded.task
    if task != "translation":
        raise UserError(f"regularization.back_translation.{key}={path}: this run does {task}, and not translation")
    return loaded


def _translated(translator: Translator, texts: list[str | None]) -> list[str | None]:
    """Return the translation of each text; None for what cannot be read or written whole, and for None."""
    with _without_warnings():
        readable = {text for text in texts if text is not None and _reads(translator, text)}
        order = sorted(readable, key=lambda text: (len(text), text))  # of about one length, for little padding
        found: dict[str | None, str] = {}
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            found |= dict(zip(part, translator.translate(translator.encode(part)), strict=True))
    return [given if (given := found.get(text)) and UNREADABLE not in given else None for text in texts]


def _reads(translator: Translator, text: str) -> bool:
    try:
        tokens = translator.encode([text]).inputs[0]
    except UserError:
        return False
    return not (tokens == UNKNOWN).any()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep a translator from warning of each text that it does not know: they are counted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
