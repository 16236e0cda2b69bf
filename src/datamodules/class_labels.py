"""Names of classes and their numbers."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from src.core.errors import UserError, nearest, short

MOST_DIGITS = 300
"""The most digits of a class that is a number."""


def classes_of(labels: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the names of the classes in order: as numbers if all of them are, else by the alphabet.

    Args:
        labels: of the training examples.
        where: the file or folder, for the error.

    Raises:
        UserError: if there are fewer than two.
    """
    names = set(labels)
    if len(names) < 2:
        name = short(next(iter(names), ""))
        raise UserError(f"{where}: training has one class only, '{name}'; there must be two or more")
    if all(name.isdecimal() and len(name) <= MOST_DIGITS for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_numbers(labels: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """Return the number of each label [N] int64.

    Raises:
        UserError: for a label that is no class of training.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for label in labels:
        if label not in numbers:
            raise UserError(f"{where} has the class '{short(label)}', which training lacks. {nearest(label, classes)}")
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
