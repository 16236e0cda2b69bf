"""Seeded, disjoint splits into training, validation and test data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from src.core.errors import UserError
from src.datamodules.splits.cross_validation import Fold, apply_fold, factorize

Example = TypeVar("Example")


def split_paths(train: Path, val: Path | None, test: Path | None) -> dict[str, Path]:
    """Return the paths of the splits that the user gave; the others are drawn from ``train`` (`draw_missing_splits`)."""
    paths = {"train": train, "val": val, "test": test}
    return {name: Path(path) for name, path in paths.items() if path}


def split_indices(
    size: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: np.ndarray | None = None,
    fold: Fold | None = None,
    fold_groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Draw train, val and test, stratified if classes are given.

    Args:
        size: number of examples.
        val_fraction, test_fraction: shares in [0, 1), together below 1; 0 for a split from another source.
        seed: the same seed draws the same split.
        classes: [size] class of each example.
        fold: fold of a cross-validation, which redistributes train and val.
        fold_groups: [size] group of each example; a fold has all examples of a group or none.

    Returns:
        {"train": indices, "val": indices, "test": indices}; every example is in exactly one.

    Raises:
        UserError: if a split with a positive share would be empty.
    """
    generator = np.random.default_rng(seed)
    groups = [np.arange(size)] if classes is None else [np.flatnonzero(classes == c) for c in np.unique(classes)]
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for group in groups:
        shuffled = generator.permutation(group)
        val, test = (round(len(group) * fraction) for fraction in (val_fraction, test_fraction))
        parts["val"].append(shuffled[:val])
        parts["test"].append(shuffled[val : val + test])
        parts["train"].append(shuffled[val + test :])
    drawn = {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}
    if fold is not None:
        pool = np.sort(np.concatenate((drawn["train"], drawn["val"])))
        pool_classes = None if classes is None else classes[pool]
        pool_groups = None if fold_groups is None else fold_groups[pool]
        train_index, val_index = fold.cut(len(pool), pool_classes, pool_groups)
        drawn |= {"train": pool[train_index], "val": pool[val_index]}
    shares = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for name, indices in drawn.items():
        if shares[name] and not len(indices):
            raise UserError(
                f"datamodule.val_fraction={val_fraction}, .test_fraction={test_fraction}: "
                f"of {size} examples none is left for {name}; add examples or change the shares"
            )
    return drawn


def split_groups(groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Draw train, val and test so that all examples of a group are in one of them.

    Args:
        groups: group of each example.
        val_fraction, test_fraction: shares of the examples, approximated by whole groups.
        seed: the same seed draws the same split.

    Raises:
        UserError: if a split with a positive share would be empty.
    """
    names, group = factorize(groups)
    sizes = np.bincount(group, minlength=len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    middles = np.empty(len(names))  # relative position of the middle of each group in the concatenation of all groups
    middles[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(group)
    ends = {"val": val_fraction, "test": val_fraction + test_fraction, "train": 1.0}
    part = np.searchsorted(np.array([*ends.values()]), middles, side="right")
    drawn = {name: np.flatnonzero(part[group] == number) for number, name in enumerate(ends)}
    for name, share in (("val", val_fraction), ("test", test_fraction), ("train", 1.0)):
        if share and not len(drawn[name]):
            raise UserError(f"{len(names)} groups are too few, none is left for {name}")
    return drawn


def draw_missing_splits(
    available: dict[str, list[Example]],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    stratum: Callable[[Example], str],
    fold: Fold | None = None,
    fold_groups: Callable[[Example], str] | None = None,
    groups: Callable[[Example], str] | None = None,
) -> dict[str, list[Example]]:
    """Draw the splits that the user did not provide from the training examples.

    Args:
        available: the examples of ``train``, and of each other split that exists; without ``train``, nothing is drawn.
        val_fraction, test_fraction: share of each drawn split.
        seed: the same seed draws the same split.
        stratum: returns the stratum of an example; each stratum is drawn in the same proportion.
        fold: fold of a cross-validation, which redistributes training and validation examples.
        fold_groups: returns the group of an example; all examples of a group are in one fold.
        groups: returns the group of an example; all examples of a group are in one split, and the draw is not
            stratified. None: as `fold_groups`.

    Raises:
        UserError: if a split would be empty.
    """
    if "train" not in available:
        return available
    examples = available["train"]
    val, test = 0.0 if "val" in available else val_fraction, 0.0 if "test" in available else test_fraction
    groups = groups or fold_groups
    if groups is None:
        strata = factorize([stratum(example) for example in examples])[1]
        indices = split_indices(len(examples), val, test, seed, strata)
    else:
        indices = split_groups([groups(example) for example in examples], val, test, seed)
    drawn = {name: [examples[i] for i in index] for name, index in indices.items()}
    splits = drawn | {name: split for name, split in available.items() if name != "train"}
    return apply_fold(splits, fold, _map_over(stratum), _map_over(fold_groups) if fold_groups else None)


def _map_over(function: Callable[[Example], str]) -> Callable[[list[Example]], list[str]]:
    return lambda examples: [function(example) for example in examples]
