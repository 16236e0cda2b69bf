"""Rebuild numbers and arrays of NumPy from their parts in a pickle of protocol 2.

Every function raises `ValueError` for parts that NumPy does not write for an array of numbers.
"""

import math
import sys
from typing import Any

import numpy as np

DTYPE_NAMES = (
    *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
    *("f2", "f4", "f8", "c8", "c16"),
)
_STATES = [(3, order, None, None, None, -1, -1, 0) for order in ("|", "<" if sys.byteorder == "little" else ">")]


def is_plain_array(value: object) -> bool:
    """Return whether a value is a number or an array of numbers of NumPy that can be read back unchanged."""
    return (type(value) is np.ndarray or isinstance(value, np.generic)) and (
        value.dtype.str[1:] in DTYPE_NAMES and value.dtype.isnative
    )


def check_dtype_state(state: object) -> None:
    """Check the attributes of a `numpy.dtype`, which are the same for all dtypes of numbers."""
    if state not in _STATES:
        raise ValueError("an array of NumPy does not hold numbers in the byte order of this machine")


def fill(array: np.ndarray[Any, Any], state: Any) -> None:
    """Set the dtype, the shape and the contents of an empty array."""
    version, shape, kind, by_columns, contents = state
    if version != 1 or type(by_columns) is not bool or not isinstance(kind, np.dtype) or type(contents) is not bytes:
        raise ValueError("the description of an array of NumPy is invalid")
    array_of(kind, contents, shape)
    array.__setstate__(state)


def array_of(kind: np.dtype[Any], contents: bytes, shape: Any) -> np.ndarray[Any, Any]:
    """Return bytes as an array, after checking their size."""
    if not isinstance(shape, tuple) or len(shape) > 32 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("the shape of an array of NumPy is damaged")
    if math.prod(shape) * kind.itemsize != len(contents) or any(size > 2**48 for size in shape):
        raise ValueError("an array of NumPy does not have the declared size")
    if kind == np.bool_ and contents.strip(b"\0\1"):
        raise ValueError("an array of booleans of NumPy holds other values")
    return np.frombuffer(contents, kind).reshape(shape)
