"""Errors for people: what is wrong, what is allowed, the nearest match."""

from collections.abc import Iterable
from difflib import get_close_matches
from re import sub

SHOWN = 20
"""Possibilities that an error lists; further ones are counted."""
LONGEST = 100
"""Characters of a word that an error shows, and that are compared, which takes time with the square of the length."""

_COMPARED = 10_000
"""Possibilities that a misspelled word is compared with."""


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend: shown without a traceback, exit code 2."""


class JobsFailed(RuntimeError):
    """Some jobs of a sweep failed; each was reported when it did, and the others are finished and recorded."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def short(text: str, most: int = LONGEST) -> str:
    """Return a text, cut off where an error on one screen has no room for more."""
    return text if len(text) <= most else f"{text[:most]}…"


def all_of(problems: Iterable[str]) -> UserError:
    """Return one error for several problems, each once on a line; further ones than one screen shows are counted."""
    lines = list(dict.fromkeys(problems))
    more = len(lines) - SHOWN
    return UserError("\n".join(lines if more <= 0 else [*lines[:SHOWN], f"… and {more} more"]))


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return the advice for a misspelled word.

    Args:
        word: what was typed.
        allowed: what could have been typed.

    Returns:
        ``"Did you mean 'adam'? Possible: adam, sgd."``; the question is left out when nothing is near.
    """
    options = sorted(set(map(str, allowed)))
    lower = {option.lower(): option for option in options[:_COMPARED] if len(option) <= LONGEST}
    matches = get_close_matches(typed := str(word)[:LONGEST].lower(), lower, cutoff=0.5)
    matches.sort(key=lambda match: sorted(match) != sorted(typed))  # swapped letters are the likeliest slip
    question = f"Did you mean '{lower[matches[0]]}'? " if matches else ""
    more = len(options) - SHOWN
    listed = [*map(short, options[:SHOWN]), *([f"…, {more} more"] if more > 0 else [])]
    return f"{question}Possible: {', '.join(listed) or 'none'}."


def option_name(target: str) -> str:
    """Return the name of an option from the class that it makes: ``src.datamodules.tabular.sklearn_tables.BreastCancer`` is
    ``breast_cancer``, and an abbreviation stays one word.
    """
    return sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", target.rpartition(".")[2]).lower().replace("res_net", "resnet")
