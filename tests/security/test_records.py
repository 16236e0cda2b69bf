"""Every verb × every record × every field: hostile strings, and values of other types."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.security.harness import (
    Case,
    Keys,
    chosen,
    dotted,
    every,
    read_record,
    report,
    walk,
    with_every_string,
    with_value,
    write_record,
)
from tests.security.hostile import STRINGS, VALUES, string
from tests.security.verbs import RUN_RECORDS, SWEEP_RECORDS, VERBS, attack, records_of

RECORDS = (*RUN_RECORDS, *SWEEP_RECORDS)
WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]
MANY_VERBS = (
    "show",
    "list",
    "compare",
    "evaluate",
    "predict_file",
    "resume",
    "runs_export",
    "list_json",
    "note",
    "sync",
)


def record_of(ordinary: Path, file: str) -> Any:
    """Return what a record of the ordinary run or sweep holds."""
    return read_record((ordinary / ("sweep" if file in SWEEP_RECORDS else "run")) / file)


def fields(file: str, record: Any) -> list[tuple[Keys, Any]]:
    """Return the fields of a record that are tried; of a checkpoint's numbers, those of its first entries."""
    skipped = ("state_dict", "random_states", "optimizer_states") if file.endswith(".ckpt") else ()
    return [(at, value) for at, value in walk(record) if not (at[0] in skipped and len(at) > 3)]


def try_all(cases: list[tuple[str, str, str, Callable[[Case], Any]]], new_case: Callable[..., Case], test: str) -> None:
    """Run cases and report those that failed.

    Args:
        cases: of each the name, the verb, the record, and what makes the new record from the old one.
        new_case: makes a workspace.
        test: the id of the test.
    """
    failures = {}
    for name, verb, file, changed in cases:
        if not chosen(name):
            continue
        case = new_case()
        path = records_of(case, file)
        try:
            write_record(path, changed(case))
        except UnicodeEncodeError:  # YAML and checkpoints cannot hold single surrogates
            continue
        failures[name] = attack(case, verb)
    report(failures, test)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("verb", VERBS)
def test_one_hostile_string_in_every_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    """All strings of a record, then all its keys, are the same hostile text, so that no output is spared.

    The strings of records for verbs that train or draw are left to `test_every_string_in_each_field`, except in the sample.
    """

    def cases() -> Iterator[tuple[str, str, str, Callable[[Case], Any]]]:
        for file in VERBS[verb].reads:
            record = record_of(ordinary, file)
            for name in STRINGS:
                if file.endswith(".ckpt") and name == "long":
                    continue
                for keys in (False, True) if whole or VERBS[verb].seconds == 10 else (True,):
                    yield (
                        f"{file}:{'keys' if keys else 'strings'}={name}",
                        verb,
                        file,
                        lambda case, record=record, name=name, keys=keys: with_every_string(
                            record, string(name, case.victim), keys
                        ),
                    )

    count = None if whole is None else 4 if VERBS[verb].seconds == 10 else 2
    try_all(every(list(cases()), count, lambda case: case[0]), new_case, request.node.nodeid)


class Change(NamedTuple):
    """A new value of one field.

    Attributes:
        name: of the field and the value.
        at: the field.
        value: a function that returns the value for the folder beside.
    """

    name: str
    at: Keys
    value: Callable[[Path], Any]


UNNAMED = ("states.jsonl", "metrics.jsonl", "predictions.json")
"""Records whose bad parts are left out without a message, so that a field could hide behind another one. Only verbs that
train or draw are tried with several of their fields at once.
"""


class Attempts:
    """Attacks with several changes of one record at once.

    A verb that refuses a record reads no more of it. Changes that are refused together are therefore divided until each
    of them is either accepted or refused alone. A field that was refused alone is then attacked alone.

    Args:
        new_case: makes a workspace.
        verb: the name of the verb.
        file: the record.
        record: what it holds.
        attack: runs the verb.
    """

    def __init__(
        self,
        new_case: Callable[..., Case],
        verb: str,
        file: str,
        record: Any,
        attack: Callable[[Case, str], list[str]] = attack,
    ) -> None:
        self._new_case, self._verb, self._file, self._record = new_case, verb, file, record
        self._run = attack
        self._refused: set[Keys] = set()
        self._ordinary = new_case()
        self._run(self._ordinary, verb)
        self.failures: dict[str, list[str]] = {}

    def run(self, changes: Sequence[Change]) -> None:
        """Attack with each of the changes, none of which is in a part that another one replaces."""
        if "SECURITY_CASE" in os.environ:
            names = os.environ["SECURITY_CASE"].removeprefix(f"{self._verb}:").split(" & ")
            self._attack([change for change in changes if change.name in names])
            return
        alone = self._file in UNNAMED and VERBS[self._verb].seconds == 10
        together = [change for change in changes if not alone and change.at not in self._refused]
        for change in changes:
            if change not in together:
                self._attack([change])
        waiting = [together]
        while waiting:
            part = waiting.pop()
            if self._attack(part) or not part:
                continue
            if len(part) == 1:
                self._refused.add(part[0].at)
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]

    def _attack(self, changes: Sequence[Change]) -> bool:
        """Attack with all of the changes, and return whether the verb did what it does with an ordinary record."""
        if not changes:
            return True
        case = self._new_case()
        record = self._record
        for change in changes:
            record = with_value(record, change.at, change.value(case.victim))
        try:
            write_record(records_of(case, self._file), record)
        except UnicodeEncodeError:  # YAML and checkpoints cannot hold single surrogates
            return True
        faults = self._run(case, self._verb)
        if faults:
            self.failures[f"{self._verb}:{' & '.join(change.name for change in changes)}"] = faults
        return not faults and case.code == self._ordinary.code and case.stderr == self._ordinary.stderr


def report_all(attempts: Attempts, test: str) -> None:
    """Fail with the smallest groups of changes that failed."""
    shortest = sorted(attempts.failures.items(), key=lambda failure: len(failure[0]))
    report(dict(shortest), test)


def strings_of(file: str, record: Any) -> list[list[Change]]:
    """Return for each hostile string the changes that write it into one of the fields of a record."""
    return [
        [
            Change(f"{dotted(at)}={name}", at, lambda victim, name=name: string(name, victim))
            for at, value in fields(file, record)
            if isinstance(value, str)
        ]
        for name in STRINGS
        if not (name == "long" and file.endswith(".ckpt"))
    ]


def values_of(file: str, record: Any) -> list[list[Change]]:
    """Return for each value the changes that write it into one of the fields of a record, by the depth of the fields."""
    groups = []
    known = fields(file, record)
    for name, value in VALUES.items():
        if file.endswith((".ckpt", ".journal")) and name == "huge":
            value = 2**62
        for depth in sorted({len(at) for at, _ in known}):
            groups.append(
                [
                    Change(f"{dotted(at)}={name}", at, lambda victim, value=value: value)
                    for at, _ in known
                    if len(at) == depth
                ]
            )
    return groups


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "file"),
    [(name, file) for name, verb in VERBS.items() for file in RECORDS if file in verb.reads or verb.seconds == 10],
)
def test_every_string_in_each_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, file: str
) -> None:
    """Every verb × every record × every field that holds a string × every hostile string.

    A verb that trains or draws is tried with the records that it reads.
    """
    record = record_of(ordinary, file)
    attempts = Attempts(new_case, verb, file, record)
    for changes in strings_of(file, record):
        attempts.run(changes)
    report_all(attempts, request.node.nodeid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "file"), [(verb, file) for verb in MANY_VERBS for file in RECORDS if file in VERBS[verb].reads]
)
def test_every_value_in_each_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, file: str
) -> None:
    """Values of all types in every field, containers too."""
    record = record_of(ordinary, file)
    attempts = Attempts(new_case, verb, file, record)
    for changes in values_of(file, record):
        attempts.run(changes)
    report_all(attempts, request.node.nodeid)


@pytest.mark.parametrize("make", (strings_of, values_of))
@pytest.mark.parametrize("file", RECORDS)
def test_a_sample_of_values_in_each_field(
    new_case: Callable[..., Case],
    ordinary: Path,
    request: pytest.FixtureRequest,
    file: str,
    make: Callable[[str, Any], list[list[Change]]],
) -> None:
    """One value at a time, the same ones in each run, and the verbs that read the record take turns."""
    record = record_of(ordinary, file)
    changes = [change for group in make(file, record) for change in group if not change.name.endswith("=long")]
    verbs = [name for name, verb in VERBS.items() if file in verb.reads]
    failures = {}
    for number, change in enumerate(every(changes, 4, lambda change: change.name)):
        verb = verbs[(number * 5 + len(file)) % len(verbs)]
        attempts = Attempts(new_case, verb, file, record)
        attempts.run([change])
        failures |= attempts.failures
    report(failures, request.node.nodeid)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("file", RECORDS)
def test_a_record_is_something_else(
    new_case: Callable[..., Case], request: pytest.FixtureRequest, file: str, value: str
) -> None:
    verbs = [name for name in MANY_VERBS if file in VERBS[name].reads]
    new = 2**62 if file.endswith(".ckpt") and value == "huge" else VALUES[value]
    cases: list[tuple[str, str, str, Callable[[Case], Any]]] = [
        (f"{verb}:{value}", verb, file, lambda case: [new] if file.endswith(".jsonl") else new) for verb in verbs
    ]
    try_all(cases, new_case, request.node.nodeid)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("file", RECORDS)
def test_a_missing_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, file: str, whole: int | None
) -> None:
    record = record_of(ordinary, file)
    verbs = [name for name in MANY_VERBS if file in VERBS[name].reads]

    def without(at: Keys) -> Any:
        inner = record
        for key in at[:-1]:
            inner = inner[key]
        rest = (
            {key: value for key, value in inner.items() if key != at[-1]}
            if isinstance(inner, dict)
            else inner[: int(at[-1])] + inner[int(at[-1]) + 1 :]
        )
        return with_value(record, at[:-1], rest)

    cases = [
        (
            f"{verbs[number % len(verbs)]}:without {dotted(at)}",
            verbs[number % len(verbs)],
            file,
            lambda case, at=at: without(at),
        )
        for number, (at, _) in enumerate(fields(file, record))
    ]
    try_all(every(cases, 300 if whole is None else 3, lambda case: case[0]), new_case, request.node.nodeid)


@pytest.mark.parametrize("file", ("run.json", "config.yaml", "metrics.jsonl", "predictions.json", *SWEEP_RECORDS))
@pytest.mark.parametrize("value", ("list_of_lists", "huge", "null"))
def test_a_bad_record_hides_no_other_run(new_case: Callable[..., Case], file: str, value: str) -> None:
    case = new_case()
    write_record(records_of(case, file), [VALUES[value]] if file.endswith("jsonl") else VALUES[value])
    assert attack(case, "list_json") == []
    assert '"id"' in case.stdout and "good" in case.stdout, case.stderr
