"""A fuzzer: records, checkpoints, sweeps, and data files are mutated by bytes and by structure, and opened in process.

The number of a case defines it completely. `SECURITY_CASE=4711` runs only that one, and `SECURITY_FUZZ=20000` so many.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.harness import Case, chosen, read_record, report, walk, with_value, write_record
from tests.security.hostile import IN_PLACE_OF_A_FILE, STRINGS, VALUES, mutated, put, string
from tests.security.verbs import CHECKPOINT, QUICK, RUN_RECORDS, SWEEP_RECORDS, VERBS, attack, records_of

CASES = int(os.environ.get("SECURITY_FUZZ", "10000"))
PARTS = 20
SAMPLE = 150
SLOWER = ("compare", "resume", "runs_export", "delete_sweep", "archive_sweep", "compare_sweep")
"""Verbs that every tenth case is opened with."""


def of_structure(record: Any, random: random.Random, victim: Path) -> Any:
    """Return a record in which some fields have another value, are missing, or are in the place of others."""
    for _ in range(random.choice((1, 1, 2, 4))):
        fields = [at for at, _ in walk(record, longest=6) if at[0] != "state_dict" or len(at) < 4]
        if not fields:
            return record
        at = random.choice(fields)
        match random.randrange(4):
            case 0:
                value: Any = random.choice(list(VALUES.values()))
                value = 2**62 if isinstance(value, int) and abs(value) > 2**63 else value
            case 1:
                value = string(random.choice(list(STRINGS)), victim).replace("\ud800", "")
            case 2:  # what another field holds
                value = record
                for key in random.choice(fields):
                    value = value[key]
            case _:
                value = {
                    string(random.choice(list(STRINGS)), victim).replace("\ud800", ""): random.choice([None, 1, [[]]])
                }
        record = with_value(record, at, value)
    return record


def change(case: Case, random: random.Random) -> tuple[str, str]:
    """Change a file of a case, and return the verb to open it with and what was changed."""
    file = random.choice((*RUN_RECORDS, *SWEEP_RECORDS, "run.json", "config.yaml", "ledger.jsonl", CHECKPOINT))
    path = records_of(case, file)
    readers = [name for name, verb in VERBS.items() if file in verb.reads]
    quick = [name for name in readers if name in QUICK]
    slower = [name for name in readers if name in SLOWER]
    verb = random.choice(slower if slower and (not quick or random.random() < 0.1) else quick)
    kind = random.choice(("bytes", "bytes", "structure", "structure", "place"))
    if kind == "bytes":
        path.write_bytes(mutated(path.read_bytes(), random))
    elif kind == "structure":
        record = of_structure(read_record(path), random, case.victim)
        if file.endswith(".jsonl") and not isinstance(record, list):
            path.write_text(json.dumps(record))
        else:
            write_record(path, record)
    else:
        put(
            random.choice([place for place in IN_PLACE_OF_A_FILE if place not in ("sparse_gigabyte",)]),
            path,
            case.victim,
        )
    return verb, f"{kind} of {file}"


def fuzz(numbers: range, new_case: Callable[..., Case], test: str) -> None:
    failures = {}
    for number in numbers:
        if not chosen(str(number)):
            continue
        case = new_case()
        verb, what = change(case, random.Random(number))
        faults = attack(case, verb)
        failures[str(number)] = [f"{verb}, {what}: {fault}" for fault in faults]
    report(failures, test)


@pytest.mark.parametrize("part", range(3))
def test_a_sample_of_mutated_folders(new_case: Callable[..., Case], request: pytest.FixtureRequest, part: int) -> None:
    fuzz(range(part * SAMPLE // 3, (part + 1) * SAMPLE // 3), new_case, request.node.nodeid)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_folders(new_case: Callable[..., Case], request: pytest.FixtureRequest, part: int) -> None:
    fuzz(range(part * CASES // PARTS, (part + 1) * CASES // PARTS), new_case, request.node.nodeid)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ("table", "text", "text_classification", "parallel_text", "image_folder", "audio_folder", "series")
)
def test_mutated_data(new_case: Callable[..., Case], request: pytest.FixtureRequest, kind: str) -> None:
    from tests.security.test_data import opened

    failures = {}
    for number in range(40):
        if chosen(str(number)):
            source = random.Random(number)
            failures[str(number)] = opened(
                new_case(None),
                kind,
                lambda file, source=source: file.write_bytes(mutated(file.read_bytes(), source)) and None,
            )
    report(failures, request.node.nodeid)
