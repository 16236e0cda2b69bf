"""What a datamodule fitted on its training data, taken back from a checkpoint that may come from someone else.

Each datamodule checks its own state in `load_state_dict`, by the functions below; `take_preparation` turns what is wrong into
one error that names the checkpoint.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from src.core.errors import UserError, first_line

if TYPE_CHECKING:
    from src.datamodules.base import DataModule


class DamagedPreparation(UserError):
    """A value of a recorded preparation is missing, or not what it must be."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the preparation in this checkpoint is damaged: {what}")


def take_preparation(datamodule: "DataModule", state: Any, path: object) -> None:
    """Give a datamodule the preparation that a checkpoint holds.

    Args:
        datamodule: without data.
        state: what its `state_dict` returned in training.
        path: of the checkpoint, for the error.

    Raises:
        UserError: naming the checkpoint, if the preparation is damaged.
    """
    try:
        datamodule.load_state_dict(state)
    except DamagedPreparation as error:
        raise UserError(f"{path}: {error}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {DamagedPreparation(first_line(error)[:200])}") from error


def part(state: Any, key: str) -> Any:
    """Return a value of a preparation."""
    if not isinstance(state, Mapping) or key not in state:
        raise DamagedPreparation(f"'{key}' is missing")
    return state[key]


def text(state: Any, key: str) -> str:
    """Return a text of a preparation."""
    value = part(state, key)
    if not isinstance(value, str):
        raise DamagedPreparation(f"'{key}' is not a string")
    return value


def texts(state: Any, key: str) -> tuple[str, ...]:
    """Return the texts of a list of a preparation."""
    value = part(state, key)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise DamagedPreparation(f"'{key}' is not a list of strings")
    return tuple(value)


def flag(state: Any, key: str) -> bool:
    """Return a truth value of a preparation."""
    value = part(state, key)
    if not isinstance(value, bool):
        raise DamagedPreparation(f"'{key}' is neither true nor false")
    return value


def size(state: Any, key: str, most: int = 2**31) -> int:
    """Return a positive integer of a preparation."""
    return _sizes([part(state, key)], key, most)[0]


def sizes(state: Any, key: str, count: int | None = None, most: int = 2**31) -> tuple[int, ...]:
    """Return the positive integers of a list of a preparation.

    Args:
        state: the preparation.
        key: the name of the list.
        count: how many there are; None takes any number.
        most: the largest product of them.
    """
    value = part(state, key)
    if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
        raise DamagedPreparation(f"'{key}' is not a list of {'' if count is None else f'{count} '}numbers")
    return _sizes(value, key, most)


def _sizes(values: Any, key: str, most: int) -> tuple[int, ...]:
    if not all(type(value) is int and 0 < value <= most for value in values) or math.prod(values) > most:
        raise DamagedPreparation(f"'{key}' is not positive, not an integer, or too large")
    return tuple(values)


def numbers(state: Any, key: str) -> tuple[float, ...]:
    """Return the finite numbers of a list of a preparation."""
    value = part(state, key)
    if not isinstance(value, list | tuple) or not all(map(is_finite, value)):
        raise DamagedPreparation(f"'{key}' is not a list of finite numbers")
    return tuple(value)


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
