"""Jobs of a sweep that repeat one experiment: the folds of a cross-validation."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from src.core.errors import UserError
from src.sweeping.search.space import refuse_too_many

FOLD, FOLDS = "cross_validation.fold", "cross_validation.folds"


def with_folds(words: Sequence[str], config: DictConfig) -> list[str]:
    """Return the words of a sweep; where they ask for a cross-validation and name no fold, with all of its folds.

    Raises:
        UserError: if they vary the number of folds and name none.
    """
    folds = config.cross_validation.folds
    if config.cross_validation.fold is not None or any(_key(word) == FOLD for word in words):
        return list(words)
    for word in words:
        if _key(word) == FOLDS and OverridesParser.create().parse_override(word).is_sweep_override():
            raise UserError(
                f"{word}: a sweep trains all folds of one number of them, such as -m {FOLDS}=5; for another number, a "
                f"sweep of its own, or name the folds: {FOLD}=1"
            )
    if not isinstance(folds, int):
        return list(words)
    refuse_too_many(folds, f"{FOLDS}={folds}")
    return [*words, f"{FOLD}={','.join(str(number) for number in range(1, folds + 1))}"]


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]
