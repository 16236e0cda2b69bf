"""Preparation and parsing of a command line's overrides."""

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from src.core.errors import UserError


def quote_override(override: str) -> str:
    """Return an override with quotes around its value if Hydra's grammar cannot read the value without them, such as a path
    with an accent or a text with "=". Flags and other overrides are returned unchanged.

    Raises:
        UserError: if the bytes of the override are not UTF-8 text.
    """
    try:
        override.encode()
    except UnicodeEncodeError as error:
        escaped = override.encode(errors="backslashreplace").decode()
        raise UserError(f"cannot read '{escaped}': its bytes are not UTF-8 text") from error
    key, equals, value = override.partition("=")
    if (
        not equals
        or override.startswith("-")
        or not re.fullmatch(r"[+~\w./@:]+", key)
        or re.search(r"[,\[\]{}()'\"$]", value)
    ):
        return override
    if re.fullmatch(r"[\w\-\\/%?.+:*@ |]*", value, re.ASCII):
        return override
    return f"{key}='{value}'"


def parse_argv(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Parse a command line as Hydra does.

    Returns:
        Hydra's flags, with the positional arguments as `overrides`; and the unknown flags.

    Raises:
        UserError: if a flag has no value or an invalid one.
    """
    from src.compat.hydra_parser import get_args_parser  # a lazy import: it is slow

    def raise_user_error(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = raise_user_error  # type: ignore[method-assign]
    return parser.parse_known_args(argv)
