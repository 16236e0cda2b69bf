"""Every verb × every record × every field: hostile strings, and values of other types."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from tests.security.verbs import CHECKPOINT, LAST, RUN_RECORDS, SWEEP_RECORDS, VERBS, attack, records_of

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
    """All strings of a record, then all its keys, are the same hostile text, so that no output is spared."""

    def cases() -> Iterator[tuple[str, str, str, Callable[[Case], Any]]]:
        for file in VERBS[verb].reads:
            record = read_record((ordinary / ("sweep" if file in SWEEP_RECORDS else "run")) / file)
            for name in STRINGS:
                if file.endswith(".ckpt") and name == "long":
                    continue
                for keys in (False, True):
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


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("file", RECORDS)
def test_a_hostile_string_in_each_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, file: str, whole: int | None
) -> None:
    """Each string of a record by itself, for each verb that reads it; the verbs take turns with the strings."""
    record = read_record((ordinary / ("sweep" if file in SWEEP_RECORDS else "run")) / file)
    verbs = [name for name, verb in VERBS.items() if file in verb.reads]
    names = [name for name in STRINGS if name != "long"]
    cases = []
    for number, (at, value) in enumerate(fields(file, record)):
        if isinstance(value, str):
            for turn, verb in enumerate(verbs):
                name = names[(number + 5 * turn) % len(names)]
                cases.append(
                    (
                        f"{verb}:{dotted(at)}={name}",
                        verb,
                        file,
                        lambda case, at=at, name=name: with_value(record, at, string(name, case.victim)),
                    )
                )
    try_all(every(cases, None if whole is None else 5, lambda case: case[0]), new_case, request.node.nodeid)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("file", RECORDS)
def test_a_value_of_another_type_in_each_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, file: str, whole: int | None
) -> None:
    record = read_record((ordinary / ("sweep" if file in SWEEP_RECORDS else "run")) / file)
    verbs = [name for name in MANY_VERBS if file in VERBS[name].reads]
    cases = []
    for number, (at, _) in enumerate([((), record), *fields(file, record)]):
        for turn, (name, value) in enumerate(VALUES.items()):
            if file.endswith(".ckpt") and name == "huge":
                value = 2**62
            verb = verbs[(number + turn) % len(verbs)]
            cases.append(
                (
                    f"{verb}:{dotted(at)}={name}",
                    verb,
                    file,
                    lambda case, at=at, value=value: (
                        [value] if file.endswith(".jsonl") and not at else with_value(record, at, value)
                    ),
                )
            )
    # Checkpoints and configs have hundreds of fields: the whole suite takes each field with some of the values.
    most = 900 if file in (CHECKPOINT, LAST, "ledger.jsonl") else 1500
    try_all(every(cases, most if whole is None else 12, lambda case: case[0]), new_case, request.node.nodeid)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("file", RECORDS)
def test_a_missing_field(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, file: str, whole: int | None
) -> None:
    record = read_record((ordinary / ("sweep" if file in SWEEP_RECORDS else "run")) / file)
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


@pytest.mark.parametrize("file", ("run.json", "config.yaml", "metrics.jsonl", "answers.json", *SWEEP_RECORDS))
@pytest.mark.parametrize("value", ("list_of_lists", "huge", "null"))
def test_a_bad_record_hides_no_other_run(new_case: Callable[..., Case], file: str, value: str) -> None:
    case = new_case()
    write_record(records_of(case, file), [VALUES[value]] if file.endswith("jsonl") else VALUES[value])
    assert attack(case, "list_json") == []
    assert '"id"' in case.stdout and "good" in case.stdout, case.stderr
