"""Restore the preparation (what a datamodule fitted on its training data) from a checkpoint, which may be untrusted.

Each datamodule validates its own state in `load_state_dict` with the functions below; `load_preparation` converts every
failure to one error that names the checkpoint.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from src.core.errors import UserError, first_line

if TYPE_CHECKING:
    from src.datamodules.base import DataModule


T = TypeVar("T")
Number = Annotated[StrictInt | StrictFloat, Field(gt=-1e300, lt=1e300)]
"""A finite number, whose products with others do not overflow."""


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


def _read(state: Any, key: str, kind: TypeAdapter[T]) -> T:
    """Return a value of a preparation, validated by pydantic."""
    try:
        return kind.validate_python(part(state, key))
    except ValidationError as error:
        raise DamagedPreparation(f"'{key}': {error.errors()[0]['msg']}") from error


def text(state: Any, key: str) -> str:
    """Return a string of a preparation."""
    return _read(state, key, TypeAdapter(StrictStr))


def texts(state: Any, key: str) -> tuple[str, ...]:
    """Return a list of strings of a preparation."""
    return _read(state, key, TypeAdapter(tuple[StrictStr, ...]))


def flag(state: Any, key: str) -> bool:
    """Return a boolean of a preparation."""
    return _read(state, key, TypeAdapter(StrictBool))


def size(state: Any, key: str, largest: int = 2**31) -> int:
    """Return a positive integer of a preparation."""
    return _read(state, key, TypeAdapter(Annotated[StrictInt, Field(gt=0, le=largest)]))


def sizes(state: Any, key: str, count: int | None = None, largest: int = 2**31) -> tuple[int, ...]:
    """Return a list of positive integers of a preparation.

    Args:
        state: the preparation.
        key: key of the list.
        count: required length; None allows any.
        largest: upper bound of their product.
    """
    values: tuple[int, ...] = _read(state, key, TypeAdapter(tuple[Annotated[StrictInt, Field(gt=0, le=largest)], ...]))
    if (count is not None and len(values) != count) or math.prod(values) > largest:
        raise DamagedPreparation(f"'{key}' has too few or too many numbers, or their product is too large")
    return values


def number(state: Any, key: str) -> float:
    """Return a finite number of a preparation."""
    return _read(state, key, TypeAdapter(Number))


def numbers(state: Any, key: str) -> tuple[float, ...]:
    """Return a list of finite numbers of a preparation."""
    return _read(state, key, TypeAdapter(tuple[Number, ...]))
