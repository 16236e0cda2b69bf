"""Jobs of a sweep that repeat one experiment: the folds of a cross-validation."""

from collections.abc import Sequence

from omegaconf import DictConfig

from src.sweeping.space import refuse_too_many

FOLD = "cross_validation.fold"


def with_folds(words: Sequence[str], config: DictConfig) -> list[str]:
    """Return the words of a sweep; where they ask for a cross-validation and name no fold, with all of its folds."""
    folds = config.cross_validation.folds
    named = any(word.lstrip("+").partition("=")[0] == FOLD for word in words)
    if not isinstance(folds, int) or config.cross_validation.fold is not None or named:
        return list(words)
    refuse_too_many(folds, f"cross_validation.folds={folds}")
    return [*words, f"{FOLD}={','.join(str(number) for number in range(1, folds + 1))}"]
