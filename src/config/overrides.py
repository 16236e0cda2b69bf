"""The words of a command line, before Hydra reads them."""

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from src.core.errors import UserError


def readable(word: str) -> str:
    """Put quotes around a value that Hydra's grammar cannot read bare, such as a path with an accent or a text with
    "="; every other word stays as it is.

    Raises:
        UserError: if a word is no text.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        shown = word.encode(errors="backslashreplace").decode()
        raise UserError(f"cannot read '{shown}': its bytes are no UTF-8 text") from error
    key, equals, value = word.partition("=")
    if (
        not equals
        or word.startswith("-")
        or not re.fullmatch(r"[+~\w./@:]+", key)
        or re.search(r"[,\[\]{}()'\"$]", value)
    ):
        return word
    if re.fullmatch(r"[\w\-\\/%?.+:*@ |]*", value, re.ASCII):
        return word
    return f"{key}='{value}'"


def arguments(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Take a command line apart as Hydra does.

    Returns:
        Hydra's flags, with the words beside them as `overrides`; and what it does not know.

    Raises:
        UserError: if a flag lacks its value, or has a wrong one.
    """
    from src.compat.hydra_parser import get_args_parser  # imported late: it takes long

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_known_args(argv)
