"""NumPy's numbers and arrays in a checkpoint: the parts that a pickle of protocol 2 makes them of.

Every function raises `ValueError` for what NumPy does not write of an array of numbers.
"""

import math
import sys
from typing import Any

import numpy as np

_KINDS = (
    *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
    *("f2", "f4", "f8", "c8", "c16"),
)
_STATES = [(3, order, None, None, None, -1, -1, 0) for order in ("|", "<" if sys.byteorder == "little" else ">")]


def is_plain_array(value: object) -> bool:
    """Return whether a value is a number or an array of numbers of NumPy that can be read back as it is."""
    return (type(value) is np.ndarray or isinstance(value, np.generic)) and (
        value.dtype.str[1:] in _KINDS and value.dtype.isnative
    )


def kind_of(*arguments: object) -> np.dtype[Any]:
    """Return what ``numpy.dtype(…)`` makes of its recorded arguments."""
    kind = arguments[0] if len(arguments) == 3 else None
    if kind not in _KINDS:
        raise ValueError("an array of NumPy is not of numbers")
    return np.dtype(kind)  # type: ignore[call-overload, no-any-return]


def check_state_of_kind(state: object) -> None:
    """Check the attributes of a `numpy.dtype`, which those of numbers have all alike."""
    if state not in _STATES:
        raise ValueError("an array of NumPy is not of numbers in the byte order of this machine")


def scalar(*arguments: object) -> Any:
    """Return a number of NumPy from its type and its bytes."""
    kind, contents = arguments
    if not isinstance(kind, np.dtype) or type(contents) is not bytes:
        raise ValueError("a number of NumPy is described wrongly")
    return _numbers(kind, contents, ())[()]


def empty(*arguments: object) -> np.ndarray[Any, Any]:
    """Return the array without contents that `fill` gives some."""
    if arguments[1:] != ((0,), b"b"):
        raise ValueError("an array of NumPy is described wrongly")
    return np.empty(0, np.int8)


def fill(array: np.ndarray[Any, Any], state: Any) -> None:
    """Give an array that `empty` returned its type, its shape and its contents."""
    version, shape, kind, by_columns, contents = state
    if version != 1 or type(by_columns) is not bool or not isinstance(kind, np.dtype) or type(contents) is not bytes:
        raise ValueError("an array of NumPy is described wrongly")
    _numbers(kind, contents, shape)
    array.__setstate__(state)


def _numbers(kind: np.dtype[Any], contents: bytes, shape: Any) -> np.ndarray[Any, Any]:
    """Return bytes as an array, after checking that they are one."""
    if not isinstance(shape, tuple) or len(shape) > 32 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("the shape of an array of NumPy is damaged")
    if math.prod(shape) * kind.itemsize != len(contents) or any(size > 2**48 for size in shape):
        raise ValueError("an array of NumPy does not have the declared size")
    if kind == np.bool_ and contents.strip(b"\0\1"):
        raise ValueError("an array of NumPy holds something else than true and false")
    return np.frombuffer(contents, kind).reshape(shape)
