"""k-fold cross-validation: training and validation data are pooled and divided into folds; each fold validates on one part."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch

from src.core.errors import UserError

log = logging.getLogger(__name__)

MAX_LISTED = 5
"""Number of classes that a warning lists; further ones are counted."""

Part = TypeVar("Part", bound=Any)
"""Examples: a list of them, or a (named) tuple of tensors or arrays [N, …]."""


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation. It divides the training and validation examples; the test split does not change.

    Args:
        number: number of this fold, from 1.
        of: number of folds.
        seed: seed of the random division; it must be the same for all folds.
        group: column by which examples are grouped, each group in one fold; None: no groups.
    """

    number: int
    of: int
    seed: int = 0
    group: str | None = None

    def cut(
        self, size: int, classes: Sequence[Any] | None = None, groups: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted indices of training and of validation, drawn at random.

        Args:
            size: number of examples.
            classes: [size] classes for stratification. An example that is the only one of its class is training data in
                every fold, with its group, because a model cannot predict a class that training lacks.
            groups: [size] groups; each is in one fold only.

        Raises:
            UserError: if there are fewer examples or groups to divide than folds, or if every class has fewer examples.
        """
        from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

        names, labels = factorize(classes) if classes is not None else ([], None)
        group_index = factorize(groups)[1] if groups is not None else None
        is_divided = np.ones(size, bool)
        if labels is not None:
            is_divided = ~_singletons(names, labels, group_index)
        pool = np.flatnonzero(is_divided)
        count, unit = len(pool), "examples"
        if group_index is not None:
            group_index = group_index[pool]
            count, unit = len(set(group_index)), f"values of {self.group}"
        if count < self.of:
            raise UserError(f"cross_validation.folds={self.of}: only {count} {unit} can be divided among the folds")
        splitter = KFold if groups is None else GroupKFold
        if labels is not None:
            labels = np.unique(labels[pool], return_inverse=True)[1]
            if (largest := np.bincount(labels).max()) < self.of:
                raise UserError(
                    f"cross_validation.folds={self.of}: the largest class has only {largest} examples that can be "
                    "divided; use fewer folds"
                )
            splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        with warnings.catch_warnings():  # about classes that are too rare to be in every fold
            warnings.simplefilter("ignore", UserWarning)
            folds = list(splitter(self.of, shuffle=True, random_state=self.seed).split(pool, labels, group_index))
        val = np.sort(pool[folds[self.number - 1][1]])
        return np.setdiff1d(np.arange(size), val), val

    def blocks(self, size: int) -> tuple[int, int]:
        """Return start and end of the validation data in a time series; training is everything before them.

        The data are divided into one more block than there are folds, because each fold validates on data after its
        training data, never before.

        Raises:
            UserError: if there are fewer examples than blocks.
        """
        from sklearn.model_selection import TimeSeriesSplit

        if size <= self.of:
            raise UserError(
                f"cross_validation.folds={self.of}: {size} examples are too few; at least {self.of + 1} are needed"
            )
        _, val = list(TimeSeriesSplit(self.of).split(np.zeros(size)))[self.number - 1]
        return int(val[0]), int(val[-1]) + 1


def factorize(names: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the sorted unique names, and the index of each name [N] among them.

    `np.unique` is not used: an array of strings takes the memory of the longest string for every element, so one long
    name in a file of many rows would fill the memory.
    """
    values = names.tolist() if isinstance(names, np.ndarray | torch.Tensor) else list(names)
    unique = sorted(set(values))
    index = {name: i for i, name in enumerate(unique)}
    return unique, np.array([index[value] for value in values], dtype=np.int64)


def _singletons(names: Sequence[Any], classes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return a mask [N] of examples that are the only one of their class, or in a group with such a one; log the classes."""
    counts = np.bincount(classes, minlength=len(names))
    singletons: np.ndarray = counts[classes] == 1
    if singletons.any():
        rare = [str(names[index])[:80] for index in np.flatnonzero(counts == 1).tolist()]
        more = f" and {len(rare) - MAX_LISTED} more" if len(rare) > MAX_LISTED else ""
        grouped = "" if groups is None else ", and so are the examples of its group"
        _warn_once(
            f"cross_validation: an example that is the only one of its class is training data in every fold{grouped}: "
            f"{', '.join(rare[:MAX_LISTED])}{more}"
        )
    return singletons if groups is None else np.isin(groups, groups[singletons])


@cache
def _warn_once(message: str) -> None:
    """Log a warning once per process: a sweep loads the same data to validate, to plan and to train."""
    log.warning(message)


def apply_fold(
    parts: dict[str, Part],
    fold: Fold | None,
    classes: Callable[[Part], Sequence[Any]] | None = None,
    groups: Callable[[Part], Sequence[Any] | None] | None = None,
) -> dict[str, Part]:
    """Redistribute training and validation examples by a fold; without a fold, return the splits unchanged.

    Args:
        parts: {"train": …, "val": …, "test": …} before anything was fitted on them.
        fold: the fold, or None.
        classes, groups: functions that return the class or the group of each example of a list.
    """
    if fold is None:
        return parts
    pool = _map_columns(_concatenate, parts["train"], parts["val"])
    size = len(pool) if isinstance(pool, list) else len(pool[0])
    train, val = fold.cut(size, classes(pool) if classes else None, groups(pool) if groups else None)
    return parts | {name: _map_columns(partial(_take, index), pool) for name, index in (("train", train), ("val", val))}


def _map_columns(function: Callable[..., Any], *parts: Any) -> Any:
    """Apply a function to the columns of parts; a part without columns is one column."""
    first = parts[0]
    if not isinstance(first, tuple):
        return function(*parts)
    columns = [_map_columns(function, *column) for column in zip(*parts, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)


def _concatenate(one: Any, other: Any) -> Any:
    if isinstance(one, torch.Tensor):
        return torch.cat((one, other))
    return np.concatenate((one, other)) if isinstance(one, np.ndarray) else [*one, *other]


def _take(index: np.ndarray, column: Any) -> Any:
    return [column[i] for i in index] if isinstance(column, list) else column[index]
