"""Errors for users, which state what is wrong, what is allowed, and the nearest match."""

from collections.abc import Iterable
from difflib import get_close_matches
from re import sub

MAX_LISTED = 20
"""Maximum number of options or lines that an error lists; the others are counted."""

MAX_NAME_LENGTH = 100
"""Maximum number of characters of a name that are shown in an error and compared."""

_MAX_COMPARED = 10_000
"""Maximum number of options with which a misspelled name is compared."""


class UserError(ValueError):
    """Invalid user input, which is reported without a traceback and with exit code 2."""


class JobsFailed(RuntimeError):
    """Some jobs of a sweep failed. Each failure was reported when it occurred; the other jobs finished."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def truncate(text: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return a text, truncated to a maximum length."""
    return text if len(text) <= max_length else f"{text[:max_length]}…"


def all_of(problems: Iterable[str]) -> UserError:
    """Return one error for several problems, one per line without duplicates; problems beyond `SHOWN` are counted."""
    lines = list(dict.fromkeys(problems))
    more = len(lines) - MAX_LISTED
    return UserError("\n".join(lines if more <= 0 else [*lines[:MAX_LISTED], f"… and {more} more"]))


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint for a misspelled name.

    Args:
        name: the input of the user.
        allowed: the valid names.

    Returns:
        ``"Did you mean 'adam'? Possible: adam, sgd."``, without the question if no name is similar.
    """
    options = sorted(set(map(str, allowed)))
    lower = {option.lower(): option for option in options[:_MAX_COMPARED] if len(option) <= MAX_NAME_LENGTH}
    typed = str(name)[:MAX_NAME_LENGTH].lower()
    matches = get_close_matches(typed, lower, cutoff=0.5)
    matches.sort(key=lambda match: sorted(match) != sorted(typed))  # swapped letters are the likeliest mistake
    question = f"Did you mean '{lower[matches[0]]}'? " if matches else ""
    more = len(options) - MAX_LISTED
    listed = [*map(truncate, options[:MAX_LISTED]), *([f"…, {more} more"] if more > 0 else [])]
    return f"{question}Possible: {', '.join(listed) or 'none'}."


def option_name(target: str) -> str:
    """Return the name of an option from its class: ``src.datamodules.tabular.sklearn_tables.BreastCancer`` becomes
    ``breast_cancer``. An abbreviation is not split.
    """
    return sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", target.rpartition(".")[2]).lower().replace("res_net", "resnet")
