"""Human-readable dates in many languages → ISO 8601, generated with Babel: a translation task for small models."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from babel.dates import format_date

from src.core.errors import UserError, nearest
from src.datamodules.splits.cross_validation import apply_fold
from src.datamodules.text.translation import Pair, Translating
from src.datamodules.tokenizers.characters import Characters

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
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


class Dates(Translating):
    """Pairs such as "lundi 3 mars 1975" and "1975-03-03", split by date: no date of val or test is in training.

    Args:
        train_size, val_size, test_size: number of pairs of each split; all dates differ.
        languages: Babel locales.
        split_seed: seed of dates, languages and formats.
        common: arguments of `DataModule`.
    """

    where = "dates"
    texts = None  # type: ignore[assignment]  # no BLEU: a date is right or wrong

    def __init__(
        self,
        train_size: int = 20_000,
        val_size: int = 1_000,
        test_size: int = 1_000,
        languages: Sequence[str] = ("en",),
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(tokens="characters", **common)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.languages = tuple(languages)
        self.split_seed = split_seed

    def pairs(self) -> dict[str, list[Pair]]:
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
        splits = {name: list(islice(rest, self.sizes[name])) for name in ("test", "val", "train")}
        return apply_fold(splits, self.fold)

    def fit_vocabularies(self, pairs: Sequence[Pair]) -> tuple[Characters, Characters]:
        return Characters.of(text for text, _ in pairs), Characters("-0123456789")


@cache
def _check_language(language: str) -> None:
    from babel.core import Locale, UnknownLocaleError
    from babel.localedata import locale_identifiers

    try:
        Locale.parse(language)
    except (UnknownLocaleError, ValueError) as error:
        hint = nearest(language, (name for name in locale_identifiers() if "_" not in name))
        raise UserError(f"datamodule.languages: Babel does not know '{language}'. {hint}") from error
