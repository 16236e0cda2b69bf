"""Restore the preparation (what a datamodule fitted on its training data) from a checkpoint, which may be untrusted.

Each datamodule validates its own state in `load_state_dict` with the functions below; `load_preparation` converts every
failure to one error that names the checkpoint.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from src.core.errors import UserError, first_line

if TYPE_CHECKING:
    from src.datamodules.base import DataModule


class DamagedPreparation(UserError):
    """A value of a recorded preparation is missing or invalid."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the preparation in this checkpoint is damaged: {reason}")


def load_preparation(datamodule: "DataModule", state: Any, path: object) -> None:
    """Restore the preparation of a datamodule from a checkpoint.

    Args:
        datamodule: the datamodule, whose data are not loaded yet.
        state: the result of its `state_dict` in training.
        path: path of the checkpoint, for error messages.

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
    """Return a string of a preparation."""
    value = part(state, key)
    if not isinstance(value, str):
        raise DamagedPreparation(f"'{key}' is not a string")
    return value


def texts(state: Any, key: str) -> tuple[str, ...]:
    """Return a list of strings of a preparation."""
    value = part(state, key)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise DamagedPreparation(f"'{key}' is not a list of strings")
    return tuple(value)


def flag(state: Any, key: str) -> bool:
    """Return a boolean of a preparation."""
    value = part(state, key)
    if not isinstance(value, bool):
        raise DamagedPreparation(f"'{key}' is neither true nor false")
    return value


def size(state: Any, key: str, largest: int = 2**31) -> int:
    """Return a positive integer of a preparation."""
    return _sizes([part(state, key)], key, largest)[0]


def sizes(state: Any, key: str, count: int | None = None, largest: int = 2**31) -> tuple[int, ...]:
    """Return a list of positive integers of a preparation.

    Args:
        state: the preparation.
        key: key of the list.
        count: required length; None allows any.
        largest: upper bound of their product.
    """
    value = part(state, key)
    if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
        raise DamagedPreparation(f"'{key}' is not a list of {'' if count is None else f'{count} '}numbers")
    return _sizes(value, key, largest)


def _sizes(values: Any, key: str, largest: int) -> tuple[int, ...]:
    if not all(type(value) is int and 0 < value <= largest for value in values) or math.prod(values) > largest:
        raise DamagedPreparation(f"'{key}' is not positive, not an integer, or too large")
    return tuple(values)


def numbers(state: Any, key: str) -> tuple[float, ...]:
    """Return a list of finite numbers of a preparation."""
    value = part(state, key)
    if not isinstance(value, list | tuple) or not all(map(is_finite, value)):
        raise DamagedPreparation(f"'{key}' is not a list of finite numbers")
    return tuple(value)


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
