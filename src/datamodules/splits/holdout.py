"""Seeded, disjoint splits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from src.core.errors import UserError
from src.datamodules.splits.cross_validation import Fold, numbered, recut

Example = TypeVar("Example")


def split_paths(train: Path, val: Path | None, test: Path | None) -> dict[str, Path]:
    """Return where the splits lie that a person named; the others are drawn out of ``train`` (`completed`)."""
    named = {"train": train, "val": val, "test": test}
    return {name: Path(path) for name, path in named.items() if path}


def split_indices(
    size: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: np.ndarray | None = None,
    fold: Fold | None = None,
    kept_together: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Draw train, val and test, each class in the same proportion where classes are given.

    Args:
        size: number of examples.
        val_fraction, test_fraction: shares in [0, 1), together below 1; 0 where a part comes from elsewhere.
        seed: the same seed draws the same split.
        classes: [size] class of each example.
        fold: of a cross-validation, which shares train and val out anew.
        kept_together: [size] groups of which a fold has all examples or none.

    Returns:
        {"train": indices, "val": indices, "test": indices}, together every example once.

    Raises:
        UserError: if a part that is asked for would be empty.
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
        of_pool = [None if labels is None else labels[pool] for labels in (classes, kept_together)]
        train, val = (pool[index] for index in fold.cut(len(pool), *of_pool))
        drawn |= {"train": train, "val": val}
    asked = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for name, indices in drawn.items():
        if asked[name] and not len(indices):
            raise UserError(
                f"datamodule.val_fraction={val_fraction}, .test_fraction={test_fraction}: "
                f"of {size} examples none is left for {name}; more examples or other shares"
            )
    return drawn


def split_groups(groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Draw train, val and test so that all examples of a group are in one of them.

    Args:
        groups: of each example.
        val_fraction, test_fraction: shares of the examples, as near as whole groups come to them.
        seed: the same seed draws the same split.

    Raises:
        UserError: if a part that is asked for would be empty.
    """
    names, group = numbered(groups)
    sizes = np.bincount(group, minlength=len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    middles = np.empty(len(names))  # where the middle of a group lies when they stand one behind the other
    middles[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(group)
    ends = {"val": val_fraction, "test": val_fraction + test_fraction, "train": 1.0}
    part = np.searchsorted(np.array([*ends.values()]), middles, side="right")
    drawn = {name: np.flatnonzero(part[group] == number) for number, name in enumerate(ends)}
    for name, share in (("val", val_fraction), ("test", test_fraction), ("train", 1.0)):
        if share and not len(drawn[name]):
            raise UserError(f"{len(names)} groups are too few, none is left for {name}")
    return drawn


def completed(
    given: dict[str, list[Example]],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    group: Callable[[Example], str],
    fold: Fold | None = None,
    kept_together: Callable[[Example], str] | None = None,
) -> dict[str, list[Example]]:
    """Draw the splits that are not given out of the training examples.

    Args:
        given: the examples of ``train``, and of those other splits that have some of their own; without ``train``,
            nothing is drawn.
        val_fraction, test_fraction: shares of a split that is drawn.
        seed: the same seed draws the same split.
        group: names the group of an example; each is drawn in the same proportion.
        fold: of a cross-validation, which shares training and validation examples out anew.
        kept_together: names what a fold keeps together, and every drawn split; its groups are not drawn in proportion.

    Raises:
        UserError: if a part would be empty.
    """
    if "train" not in given:
        return given
    whole = given["train"]
    shares = {"val": val_fraction, "test": test_fraction}
    drawn = {name: 0.0 if name in given else share for name, share in shares.items()}
    if kept_together is None:
        parts = split_indices(len(whole), drawn["val"], drawn["test"], seed, numbered([group(one) for one in whole])[1])
    else:
        parts = split_groups([kept_together(one) for one in whole], drawn["val"], drawn["test"], seed)
    found = {name: [whole[i] for i in index] for name, index in parts.items()}
    splits = {name: found[name] if name == "train" or drawn[name] else given[name] for name in found}
    return recut(splits, fold, _each(group), _each(kept_together) if kept_together else None)


def _each(name: Callable[[Example], str]) -> Callable[[list[Example]], list[str]]:
    return lambda examples: [name(example) for example in examples]
