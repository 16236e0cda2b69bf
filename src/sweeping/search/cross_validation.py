"""Expand the cross-validation of a sweep into one job per fold."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from src.core.errors import UserError
from src.sweeping.search.space import check_count

FOLD, FOLDS = "cross_validation.fold", "cross_validation.folds"


def expand_folds(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """Return the overrides of a sweep; if they enable cross-validation and select no fold, with all folds added.

    Raises:
        UserError: if they vary the number of folds without selecting a fold.
    """
    folds = config.cross_validation.folds
    if config.cross_validation.fold is not None or any(_key(override) == FOLD for override in overrides):
        return list(overrides)
    for override in overrides:
        if _key(override) == FOLDS and OverridesParser.create().parse_override(override).is_sweep_override():
            raise UserError(
                f"{override}: one sweep trains all folds of a single {FOLDS} value, such as -m {FOLDS}=5; run a separate "
                f"sweep for each other value, or select the folds: {FOLD}=1"
            )
    if not isinstance(folds, int):
        return list(overrides)
    check_count(folds, f"{FOLDS}={folds}")
    return [*overrides, f"{FOLD}={','.join(str(number) for number in range(1, folds + 1))}"]


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]
