"""Links that are put in place between a check and the use of a file or folder.

An audit event precedes every call that opens, makes, renames, or removes something. A case lets the attacker replace the file
of one such event, or a folder above it, at that very moment: all checks that preceded it have passed.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.harness import WATCH, Case, chosen, every, report, snapshot
from tests.security.verbs import VERBS, attack

STOLEN = "zzhostile-from-outside"
"""A text of the files outside, which no output may contain."""

NAMED = (
    "show",
    "tag",
    "note",
    "archive",
    "restore",
    "delete",
    "rerun",
    "runs_export",
    "evaluate",
    "evaluate_checkpoint",
)
NAMED += ("predict", "predict_file", "export", "resume")
"""Verbs that are given the run, so that the folder itself may be reached through links."""

EXPENSIVE = ("resume", "rerun", "export", "runs_export", "evaluate", "evaluate_checkpoint", "plan_sweep")


def prepared(new_case: Callable[..., Case]) -> tuple[Case, Path]:
    """Return a case, and a copy of its folder outside of it whose records contain a text of their own."""
    case = new_case()
    outside = case.victim / "outputs"
    shutil.copytree(case.outputs, outside)
    for file in outside.rglob("run.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "notes": STOLEN, "tags": [STOLEN]}))
    for file in outside.rglob("train.log"):
        file.write_text(STOLEN)
    return case, outside


def events_of(case: Case, verb: str) -> list[tuple[int, str, str]]:
    """Return the events of a verb that name something below ``outputs``: number, kind, and path below it."""
    seen: list[tuple[int, str, str]] = []
    inside = str(case.outputs) + os.sep

    def note(event: str, path: str) -> None:
        path = os.path.normpath(path)
        if path.startswith(inside):
            seen.append((len(seen), event, path.removeprefix(inside)))

    WATCH.before = note
    try:
        attack(case, verb)
    finally:
        WATCH.before = None
    return seen


def swapped(case: Case, outside: Path, verb: str, number: int, depth: int) -> list[str]:
    """Run a verb, and replace a component of the path of one of its events by a link when that comes.

    A whole run or sweep may be read through a link, as the user's own ones are, but nothing is written through it.
    """
    whole_run = False
    inside = str(case.outputs) + os.sep
    count = 0

    def swap(event: str, path: str) -> None:
        nonlocal count, whole_run
        path = os.path.normpath(path)
        if not path.startswith(inside):
            return
        if count == number:
            below = Path(*Path(path.removeprefix(inside)).parts[:depth])
            whole_run = (outside / below).is_dir() and below.name != "checkpoints"
            place = case.outputs / below
            if os.path.lexists(place):
                place.rename(case.hostile / "taken")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(outside / below)
        count += 1

    before = snapshot(case.victim)
    WATCH.before = swap
    try:
        faults = attack(case, verb)
    finally:
        WATCH.before = None
    faults = [fault for fault in faults if str(case.hostile / "taken") not in fault]
    after = snapshot(case.victim)
    faults += [f"changed: {path}" for path in before.keys() | after if before.get(path) != after.get(path)]
    written = [path for path in case.out.rglob("*") if path.is_file() and not path.is_symlink()]
    read = STOLEN in case.stdout + case.stderr or any(STOLEN.encode() in path.read_bytes() for path in written)
    if read and not whole_run:
        faults.append("a file outside was read")
    return faults


@pytest.mark.parametrize(
    ("verb", "whole"),
    [
        *(pytest.param(verb, None, marks=pytest.mark.slow, id=f"{verb}-whole") for verb in VERBS),
        *(pytest.param(verb, 3, id=f"{verb}-sample") for verb in ("show", "tag", "archive_sweep", "delete_sweep")),
    ],
)
def test_a_link_that_appears_between_check_and_use(
    new_case: Callable[..., Case], request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    cases = []
    given = {"run": verb in NAMED, "sweep": verb.endswith("_sweep")}
    for number, event, path in events_of(prepared(new_case)[0], verb):
        parts = Path(path).parts
        if parts[0] != "runs":  # where the user's own new run goes
            cases += [(number, event, path, depth) for depth in range(1 + given.get(parts[0], 0), len(parts) + 1)]
    most = 60 if verb in EXPENSIVE else 150
    failures = {}
    for number, event, path, depth in every(cases, most if whole is None else whole, lambda case: f"{case[1:]}"):
        name = f"{number} {event} {path}, {depth}"
        if chosen(name):
            case, outside = prepared(new_case)
            failures[name] = swapped(case, outside, verb, number, depth)
    report(failures, request.node.nodeid)


def test_the_harness_notices_a_link_that_is_followed(new_case: Callable[..., Case]) -> None:
    case, outside = prepared(new_case)

    def careless(argv: object) -> None:
        file = case.run / "run.json"
        if not file.is_symlink():
            file.write_text("x")

    taken: list[str] = []

    def swap(event: str, path: str) -> None:
        if path.endswith("run.json") and not taken:
            taken.append(path)
            os.unlink(path)
            os.symlink(outside / "run" / "run.json", path)

    WATCH.before = swap
    try:
        faults = case.open(careless)
    finally:
        WATCH.before = None
    assert any("outside" in fault for fault in faults), faults
