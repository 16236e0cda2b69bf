"""Conditions on runs, such as ``optimizer.name=adam val/loss<0.3``."""

import operator
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from src.comparing.keys import MISSING, meant, shown, telling
from src.comparing.view import is_measure, measured, names_of
from src.errors import UserError
from src.tracking.recorded import RecordedRun, is_number

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"([^\s=<>!]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """What a run must be.

    Args:
        name: a key, metric or column.
        sign: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
        values: what it is compared with; of several, one must fit.
    """

    name: str
    sign: str
    values: tuple[str, ...]

    def holds(self, run: RecordedRun) -> bool:
        """Tell whether a run fulfils it; one without a value fulfils only ``!=``."""
        value = _value(run, self.name)
        if self.sign in ("=", "!="):
            return any(_equal(value, wanted) for wanted in self.values) == (self.sign == "=")
        return is_number(value) and _ORDER[self.sign](value, float(self.values[0]))


def is_condition(word: str) -> bool:
    """Whether a word of the command line is a condition, and no folder."""
    return _CONDITION.fullmatch(word) is not None


def conditions(text: str | Sequence[str], runs: Sequence[RecordedRun]) -> list[Condition]:
    """Read conditions.

    Args:
        text: conditions with spaces between them, or one a word.
        runs: whose keys, metrics and columns may be named.

    Raises:
        UserError: if one is none, names what no run has, or compares with no number.
    """
    try:
        words = shlex.split(text) if isinstance(text, str) else list(text)
    except ValueError as error:
        raise UserError(f"--filter {text}: {error}") from error
    names, keys = names_of(runs), telling(runs)[0]
    return [_condition(word, runs, names, keys) for word in words]


def _condition(word: str, runs: Sequence[RecordedRun], names: Sequence[str], keys: Sequence[str]) -> Condition:
    match = _CONDITION.fullmatch(word)
    if match is None:
        raise UserError(f"{word}: no condition; one is like optimizer.name=adam, val/loss<0.3 or status!=failed")
    name, sign, value = match.groups()
    name = meant(name, names, keys)
    sign = "=" if sign == "==" else sign
    if not value:
        raise UserError(f"{word}: a value is missing after {sign}")
    if sign in _ORDER:
        try:
            float(value)
        except ValueError:
            raise UserError(f"{word}: {sign} compares numbers, and {value} is none") from None
        if not any(is_number(_value(run, name)) for run in runs):
            raise UserError(f"{word}: {name} is no number in any of the runs; for text there are = and !=")
        return Condition(name, sign, (value,))
    values = (value,) if value.startswith(("[", "{")) else tuple(value.split(","))
    return Condition(name, sign, values)


def _value(run: RecordedRun, name: str) -> Any:
    if name == "status":
        return run.status
    if name == "run":
        return run.name
    if name == "runs":
        return 1
    return measured(run, name) if is_measure(name) else run.config.get(name, MISSING)


def _equal(value: Any, wanted: str) -> bool:
    if is_number(value):
        try:
            return bool(value == float(wanted))
        except ValueError:
            return False
    return value is not None and shown(value) == wanted if wanted != "null" else value is None


def kept(runs: Sequence[RecordedRun], wanted: Sequence[Condition]) -> list[RecordedRun]:
    """Return the runs that fulfil all conditions.

    Raises:
        UserError: if none does, with how many fulfil each.
    """
    found = [run for run in runs if all(condition.holds(run) for condition in wanted)]
    if not found:
        counts = (f"{c.name}{c.sign}{','.join(c.values)}: {sum(map(c.holds, runs))}" for c in wanted)
        raise UserError(f"no run is left of {len(runs)}; each condition alone leaves\n" + "\n".join(counts))
    return found
