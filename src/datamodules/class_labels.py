"""Class names and class indices."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from src.core.errors import UserError, nearest, truncate

MAX_DIGITS = 300
"""Largest number of digits of a class name that is sorted as a number."""


def classes_of(labels: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the sorted class names: numerically if all are numbers, else alphabetically.

    Args:
        labels: labels of the training examples.
        where: the file or folder, for error messages.

    Raises:
        UserError: if there are fewer than two.
    """
    names = set(labels)
    if len(names) < 2:
        name = truncate(next(iter(names), ""))
        raise UserError(f"{where}: training has one class only, '{name}'; there must be two or more")
    if all(name.isdecimal() and len(name) <= MAX_DIGITS for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_numbers(labels: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """Return the class index of each label [N] int64.

    Raises:
        UserError: if a label does not occur in training.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for label in labels:
        if label not in numbers:
            raise UserError(
                f"{where} has the class '{truncate(label)}', which training lacks. {nearest(label, classes)}"
            )
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
