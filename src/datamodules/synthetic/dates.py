"""Human-readable dates in many languages → ISO 8601, generated with Babel: a translation task for small models."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from babel.dates import format_date

from src.core.batches import Batch, TranslationBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, nearest
from src.datamodules.base import DataModule
from src.datamodules.preparation import size
from src.datamodules.splits.cross_validation import apply_fold
from src.datamodules.tokenizers.characters import END, PADDING, START, Vocabulary, pad, trim_padding

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
TARGET_LENGTH = len("<yyyy-mm-dd>")
# Each contains the name of the month or starts with the year: 03/04/2005 is ambiguous.
PATTERNS = (
    "d MMMM y",
    "d MMM y",
    "MMMM d, y",
    "EEEE, d MMMM y",
    "y MMM d",
    "yyyy/MM/dd",
    "yyyy.M.d",
    "d. MMMM y",
    "long",
    "full",
)


class Dates(DataModule):
    """Pairs such as "lundi 3 mars 1975" and "1975-03-03", split by date: no date of val or test is in training.

    Args:
        train_size, val_size, test_size: number of pairs of each split; all dates differ.
        languages: Babel locales.
        split_seed: seed of dates, languages and formats.
        common: arguments of `DataModule`.
    """

    task = "translation"
    inputs = "tokens"
    supports_folds = True

    def __init__(
        self,
        train_size: int = 20_000,
        val_size: int = 1_000,
        test_size: int = 1_000,
        languages: Sequence[str] = ("en",),
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.languages = tuple(languages)
        self.split_seed = split_seed
        self.source_vocabulary: Vocabulary | None = None
        self.target_vocabulary = Vocabulary("-0123456789")
        self.source_length = 0

    def load(self) -> dict[str, Batch]:
        texts = apply_fold(self._texts(), self.fold)
        if self.source_vocabulary is None:
            self.source_vocabulary = Vocabulary.of(text for text, _ in texts["train"])
            self.source_length = max(len(text) for pairs in texts.values() for text, _ in pairs) + 1
        return {name: self._batch(pairs) for name, pairs in texts.items()}

    def _texts(self) -> dict[str, list[tuple[str, str]]]:
        for language in self.languages:
            _check_language(language)
        days = (LAST - FIRST).days + 1
        total = sum(self.sizes.values())
        if total > days:
            raise UserError(
                f"datamodule: the splits need {total:,} dates, but there are only {days:,} from {FIRST} to {LAST}"
            )
        generator = np.random.default_rng(self.split_seed)
        order = generator.permutation(days)
        languages = generator.integers(len(self.languages), size=days)
        patterns = generator.integers(len(PATTERNS), size=days)
        lowercase = generator.random(days) < 0.2
        pairs = []
        for day, language, pattern, lower in islice(zip(order, languages, patterns, lowercase, strict=True), total):
            day_date = FIRST + timedelta(days=int(day))
            text = format_date(day_date, PATTERNS[pattern], locale=self.languages[language])
            pairs.append((text.lower() if lower else text, day_date.isoformat()))
        rest = iter(pairs)  # test first, so that it does not depend on the other sizes
        return {name: list(islice(rest, self.sizes[name])) for name in ("test", "val", "train")}

    def _batch(self, pairs: list[tuple[str, str]], warn: bool = False) -> TranslationBatch:
        assert self.source_vocabulary is not None
        source = [[*self.source_vocabulary.encode(text, warn), END] for text, _ in pairs]
        target = [[START, *self.target_vocabulary.encode(iso), END] for _, iso in pairs]
        return TranslationBatch(pad(source), pad(target))

    def collate(self, batch: Batch) -> Batch:
        """Remove the padding that no source of the batch needs."""
        assert isinstance(batch, TranslationBatch)
        return batch._replace(source=trim_padding(batch.source))

    @property
    def spec(self) -> DataSpec:
        assert self.source_vocabulary is not None
        return DataSpec(
            self.task,
            self.inputs,
            (self.source_length,),
            (len(self.target_vocabulary),),
            vocabulary_size=len(self.source_vocabulary),
            padding_id=PADDING,
            start_id=START,
            end_id=END,
            target_length=TARGET_LENGTH,
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a date in any of the formats of training."""
        texts = [text.strip() for text in inputs]
        for text in texts:
            if not text:
                raise UserError("the input is empty; a date is expected")
            if len(text) >= self.source_length:
                raise UserError(
                    f"'{text[:60]}': {len(text)} characters; the longest date of training has {self.source_length - 1}"
                )
        source = self._batch([(text, "") for text in texts], warn=True).source
        return TranslationBatch(source, torch.zeros(len(source), TARGET_LENGTH, dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [text for text, _ in self._texts()["test"][:count]]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"prediction": self.target_vocabulary.decode(prediction["tokens"])} for prediction in predictions]

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        vocabulary = self.target_vocabulary if target else self.source_vocabulary
        assert vocabulary is not None
        return vocabulary.names(tokens)

    def state_dict(self) -> dict[str, Any]:
        if self.source_vocabulary is None:
            return {}
        return {"characters": self.source_vocabulary.characters, "source_length": self.source_length}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.source_vocabulary = Vocabulary.from_plain(state_dict)
        self.source_length = size(state_dict, "source_length", 2**20)


@cache
def _check_language(language: str) -> None:
    from babel.core import Locale, UnknownLocaleError
    from babel.localedata import locale_identifiers

    try:
        Locale.parse(language)
    except (UnknownLocaleError, ValueError) as error:
        hint = nearest(language, (name for name in locale_identifiers() if "_" not in name))
        raise UserError(f"datamodule.languages: Babel does not know '{language}'. {hint}") from error
