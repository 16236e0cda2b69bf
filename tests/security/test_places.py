"""Links, pipes, devices, directories, and bombs in place of every file and folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.harness import Case, chosen, every, report
from tests.security.hostile import IN_PLACE_OF_A_FILE, put
from tests.security.verbs import VERBS, attack

WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]
RECORD_KINDS = ("run.json", "config.yaml", "ledger.jsonl")


def files(outputs: Path, folder: str) -> list[str]:
    """Return the files of the run or of the sweep, among them those that only some runs have."""
    found = [str(path.relative_to(outputs / folder)) for path in (outputs / folder).rglob("*") if path.is_file()]
    return sorted(found)


def folders(outputs: Path) -> list[str]:
    return [
        "run",
        "run/checkpoints",
        "sweep",
        *(f"sweep/{path.name}" for path in (outputs / "sweep").iterdir() if path.is_dir()),
    ]


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("verb", VERBS)
def test_in_place_of_each_file(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    cases = [
        (folder, file, kind)
        for folder in ("run", "sweep")
        for file in files(ordinary, folder)
        for kind in IN_PLACE_OF_A_FILE
    ]
    # A verb that trains or draws is tried with what it opens; every verb that lists opens the files of both.
    if VERBS[verb].seconds > 10:
        cases = [case for case in cases if case[0] == "run" or case[1] in ("ledger.jsonl", "states.jsonl", ".lock")]
    count = None if whole is None else 8 if VERBS[verb].seconds == 10 else 4
    failures = {}
    for folder, file, kind in every(cases, count):
        name = f"{folder}/{file}={kind}"
        if chosen(name):
            case = new_case()
            put(kind, case.outputs / folder / file, case.victim)
            failures[name] = attack(case, verb)
    report(failures, request.node.nodeid)


@pytest.mark.parametrize("file", RECORD_KINDS)
@pytest.mark.parametrize(
    "kind", ("pipe", "alias_bomb", "deep_lists", "sparse_gigabyte", "link_to_device", "invalid_utf8")
)
def test_a_bad_file_hides_no_other_run(new_case: Callable[..., Case], file: str, kind: str) -> None:
    case = new_case()
    put(kind, (case.sweep if file == "ledger.jsonl" else case.run) / file, case.victim)
    assert attack(case, "list_json") == []
    assert str(case.outputs / "good") in case.stdout, case.stderr


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("verb", VERBS)
def test_links_and_pipes_with_names_that_verbs_write(
    new_case: Callable[..., Case], request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    """Names that a run does not have yet, but which a verb may open for writing."""
    names = (
        "plots",
        "export",
        "wandb",
        "tags.json",
        "notes.txt",
        "checkpoints/last.ckpt.tmp",
        "crash.log",
        "train.log.1",
    )
    names += (
        "comparison",
        "report.html",
        "comparison.html",
        "csv",
        "csv/metrics.csv",
        ".archived",
        "run.json.tmp",
        ".lock",
    )
    cases = [(name, kind) for name in names for kind in ("folder", "file", "dangling", "pipe")]
    failures = {}
    for name, kind in every(cases, None if whole is None else 2):
        label = f"{name}={kind}"
        if not chosen(label):
            continue
        case = new_case()
        path = case.run / name
        path.parent.mkdir(exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            targets = {"folder": case.victim, "file": case.victim / "thesis.txt", "dangling": case.victim / "made"}
            path.symlink_to(targets[kind])
        failures[label] = attack(case, verb)
    report(failures, request.node.nodeid)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("verb", VERBS)
def test_links_in_place_of_each_folder(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    """A folder becomes a link to one outside, which holds the same."""
    failures = {}
    for folder in every(folders(ordinary)[1:], None if whole is None else 1):
        if not chosen(folder):
            continue
        case = new_case()
        if folder == "sweep":
            continue  # a user may keep a sweep elsewhere and link to it: the folder that is opened is the target
        target = case.victim / "moved"
        shutil.move(case.outputs / folder, target)
        (case.outputs / folder).symlink_to(target)
        failures[folder] = attack(case, verb)
    report(failures, request.node.nodeid)


def test_a_name_of_a_folder_is_hostile_text(new_case: Callable[..., Case]) -> None:
    for verb in ("list", "list_json", "compare", "sync"):
        case = new_case()
        for name in ("\x1b[2J", "=1+1", "<img src=x>zzhostile", "[x](javascript:alert(1))", "a\nb"):
            shutil.copytree(case.outputs / "good", case.outputs / name)
        assert attack(case, verb) == [], verb


def test_an_archive_keeps_what_links_point_to(new_case: Callable[..., Case]) -> None:
    """``runs export`` packs no file from outside."""
    for name in ("plots", "notes.txt", "checkpoints/extra.ckpt"):
        case = new_case()
        (case.run / name).symlink_to(case.victim if name == "plots" else case.victim / "thesis.txt")
        assert attack(case, "runs_export") == []
        packed = [path for path in (case.out / "packed").rglob("*") if path.is_file()]
        assert not [path for path in packed if b"a year of work" in path.read_bytes()], name


def test_deleting_takes_what_was_listed_only(new_case: Callable[..., Case]) -> None:
    case = new_case()
    (case.sweep / "my notes").mkdir()
    (case.sweep / "my notes" / "thesis.txt").write_text("mine")
    (case.sweep / "mine.txt").write_text("mine")
    job = next(path for path in case.sweep.iterdir() if (path / "run.json").is_file())
    (job / "link").symlink_to(case.victim)
    (job / "plots").symlink_to(case.victim)
    assert attack(case, "delete_sweep") == []
    assert (case.sweep / "mine.txt").exists() and (case.sweep / "my notes" / "thesis.txt").exists()
    assert not job.exists()
