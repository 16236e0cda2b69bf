"""The words of a command line, before Hydra reads them."""

import re


def readable(word: str) -> str:
    """Put quotes around a value that Hydra's grammar cannot read bare, such as a path with an accent or a text with
    "="; every other word stays as it is.
    """
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
