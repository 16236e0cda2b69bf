"""k-fold cross-validation: training and validation data cut anew, each part of them the validation data of one fold."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from src.core.errors import UserError

log = logging.getLogger(__name__)

NAMED = 5
"""Classes that a warning names; further ones are counted."""

Part = TypeVar("Part", bound=Any)
"""Examples: a list of them, or a (named) tuple of tensors or arrays [N, …]."""


@dataclass(frozen=True)
class Fold:
    """One of the folds. What it cuts are the examples that would be training and validation data; test stays as it is.

    Args:
        number: which one, from 1.
        of: how many there are.
        seed: draws the folds; it must be the same for all of them.
        group: the column whose values are kept together; None: examples stand for themselves.
    """

    number: int
    of: int
    seed: int = 0
    group: str | None = None

    def cut(
        self, size: int, classes: Sequence[Any] | None = None, groups: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of training and of validation, drawn at random, in rising order.

        Args:
            size: number of examples.
            classes: [size], each as often in every fold as can be. An example that is alone in its class is trained on
                in every fold, with its group, as a class that training lacks cannot be told.
            groups: [size], each in one fold only.

        Raises:
            UserError: if there are fewer examples, or groups, to share out than folds, or if every class has fewer.
        """
        from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

        names, labels = ([], None) if classes is None else numbered(classes)
        kept = None if groups is None else numbered(groups)[1]
        always = _alone(names, labels, kept) if labels is not None else np.zeros(size, bool)
        shared = np.flatnonzero(~always)
        labels, kept = (None if every is None else every[shared] for every in (labels, kept))
        most, what = (len(shared), "examples") if kept is None else (len(set(kept)), f"values of {self.group}")
        if most < self.of:
            raise UserError(f"cross_validation.folds={self.of}: there are {most} {what} to share out")
        numbers = None if labels is None else np.unique(labels, return_inverse=True)[1]
        if numbers is not None and (largest := np.bincount(numbers).max()) < self.of:
            raise UserError(
                f"cross_validation.folds={self.of}: the largest class has {largest} examples to share out; fewer folds"
            )
        kinds: dict[tuple[bool, bool], Any] = {
            (False, False): KFold,
            (True, False): StratifiedKFold,
            (False, True): GroupKFold,
            (True, True): StratifiedGroupKFold,
        }
        splitter = kinds[classes is not None, groups is not None](self.of, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():  # of a class that is too rare to be in every fold
            warnings.simplefilter("ignore", UserWarning)
            folds = list(splitter.split(shared, numbers, kept))
        val = np.sort(shared[folds[self.number - 1][1]])
        return np.setdiff1d(np.arange(size), val), val

    def blocks(self, size: int) -> tuple[int, int]:
        """Return where validation begins and ends in data that have an order of time; training is all that lies before.

        The data are cut into one block more than there are folds, as each is validated on what comes after its training
        data, never before.

        Raises:
            UserError: if there are fewer examples than blocks.
        """
        from sklearn.model_selection import TimeSeriesSplit

        if size <= self.of:
            raise UserError(f"cross_validation.folds={self.of}: {size} examples are too few for as many blocks and one")
        _, val = list(TimeSeriesSplit(self.of).split(np.zeros(size)))[self.number - 1]
        return int(val[0]), int(val[-1]) + 1


def numbered(names: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the different names in order, and the number of each name [N] in that order.

    An array of strings takes the memory of the longest for each of them, so that one long name of a file with many rows
    would fill the memory.
    """
    values = names.tolist() if isinstance(names, np.ndarray | torch.Tensor) else list(names)
    order = sorted(set(values))
    number = {name: index for index, name in enumerate(order)}
    return order, np.array([number[value] for value in values], dtype=np.int64)


def _alone(names: Sequence[Any], classes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return [N] which examples are the only one of their class, or in the group of such a one; the log tells them."""
    counts = np.bincount(classes, minlength=len(names))
    alone: np.ndarray = counts[classes] == 1
    if alone.any():
        rare = [str(names[index])[:80] for index in np.flatnonzero(counts == 1).tolist()]
        more = f" and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
        whole = "" if groups is None else ", and so do those of its group"
        _warn_once(
            f"cross_validation: an example that is alone in its class always trains{whole}: "
            f"{', '.join(rare[:NAMED])}{more}"
        )
    return alone if groups is None else np.isin(groups, groups[alone])


@cache
def _warn_once(message: str) -> None:
    """Warn, unless this process has: a sweep loads the same data to check them, to plan and to train."""
    log.warning(message)


def recut(
    parts: dict[str, Part],
    fold: Fold | None,
    classes: Callable[[Part], Sequence[Any]] | None = None,
    groups: Callable[[Part], Sequence[Any] | None] | None = None,
) -> dict[str, Part]:
    """Return splits whose training and validation examples are those of a fold; without one, as they are.

    Args:
        parts: {"train": …, "val": …, "test": …} before anything was fitted on them.
        fold: which one.
        classes, groups: of each of the examples that they are given.
    """
    if fold is None:
        return parts
    pool = _joined(parts["train"], parts["val"])
    size = len(pool) if isinstance(pool, list) else len(pool[0])
    train, val = fold.cut(size, classes(pool) if classes else None, groups(pool) if groups else None)
    return parts | {"train": _taken(pool, train), "val": _taken(pool, val)}


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return _like(one, [_joined(*pair) for pair in zip(one, other, strict=True)])
    if isinstance(one, torch.Tensor):
        return torch.cat((one, other))
    return np.concatenate((one, other)) if isinstance(one, np.ndarray) else [*one, *other]


def _taken(pool: Any, index: np.ndarray) -> Any:
    if isinstance(pool, tuple):
        return _like(pool, [_taken(column, index) for column in pool])
    return [pool[i] for i in index] if isinstance(pool, list) else pool[index]


def _like(example: tuple[Any, ...], columns: list[Any]) -> Any:
    return type(example)(*columns) if hasattr(example, "_fields") else tuple(columns)
