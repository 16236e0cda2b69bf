"""Ledgers whose folders leave the sweep, and sweeps that are resumed by processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.harness import CONTROL, ROOT, SECRET, Case, read_record, snapshot, write_record
from tests.security.verbs import attack

FOLDERS: dict[str, Any] = {
    "parent": "..",
    "itself": ".",
    "empty": "",
    "beside": "../run",
    "victim": "../../../victim",
    "absolute": "VICTIM",
    "through a job": "seed-0/../../../../victim",
    "new outside": "../../../victim/new",
    "nested": "a/b",
    "backslash": "..\\..\\victim",
    "null byte": "x\0y",
    "option": "--yes",
    "escape": "zzhostile\x1b[2J",
    "long": "x" * 300,
    "ledger": "ledger.jsonl",
    "hidden": ".lock",
    "number": 7,
    "none": None,
    "list": ["../x"],
    "home": "~",
}


def change_jobs(case: Case, name: str, value: Any) -> None:
    """Give a field of the first job another value, so that the job looks as if it had not begun."""
    ledger = read_record(case.sweep / "ledger.jsonl")
    value = str(case.victim) if value == "VICTIM" else value
    ledger[1] = {**ledger[1], name: value}
    write_record(case.sweep / "ledger.jsonl", ledger)


def resume(case: Case, *argv: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Resume the sweep with the command line, and fail for effects outside of it."""
    before = snapshot(case.workspace, [case.outputs, case.out])
    environment = os.environ | {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "PYTHONPATH": os.pathsep.join([str(case.cwd), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-c",
        _CANARIES + "import src.train; src.train.main()",
        "-m",
        f"sweep.resume={case.sweep}",
        *argv,
    ]
    try:
        ended = subprocess.run(command, cwd=case.cwd, env=environment, text=True, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        pytest.fail("hang")
    after = snapshot(case.workspace, [case.outputs, case.out, case.cwd / "outputs"])
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert not changed, changed
    assert "Traceback" not in ended.stderr, ended.stderr[-800:]
    assert SECRET not in ended.stdout + ended.stderr
    assert not CONTROL.search(ended.stdout + ended.stderr)
    leaked = [
        path
        for path in case.outputs.rglob("*")
        if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes()
    ]
    assert not leaked
    assert ended.returncode in (0, 1, 2), ended.stderr[-800:]
    return ended


_CANARIES = """
import builtins, pathlib
class Note(list):
    def append(self, name):
        pathlib.Path("imported.canary").write_text(name)
builtins.canary_imports = Note()
"""


@pytest.mark.parametrize(
    "folder",
    [pytest.param(f, marks=() if f in ("victim", "absolute", "beside") else pytest.mark.slow) for f in FOLDERS],
)
def test_resuming_touches_no_folder_outside(new_case: Callable[..., Case], folder: str) -> None:
    case = new_case()
    beside = snapshot(case.run)
    change_jobs(case, "folder", FOLDERS[folder])
    resume(case)
    assert snapshot(case.run) == beside


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("verb", ("delete_sweep", "archive_sweep", "compare_sweep", "list"))
def test_other_verbs_touch_no_folder_outside(new_case: Callable[..., Case], folder: str, verb: str) -> None:
    case = new_case()
    beside = snapshot(case.run) if verb == "delete_sweep" else None
    change_jobs(case, "folder", FOLDERS[folder])
    assert attack(case, verb) == []
    if beside is not None:
        assert snapshot(case.run) == beside


def _target(where: str) -> Callable[[list[Any]], None]:
    def change(ledger: list[Any]) -> None:
        target = {"_target_": "canary_in_cwd.Model", "name": "mlp"}
        if where == "base":
            ledger[0]["base"]["model"] = target
        elif where == "nested":
            ledger[0]["base"]["optimizer"]["betas"] = target
        elif where == "callbacks":
            ledger[0]["base"]["callbacks"]["x"] = target
        else:
            ledger[1]["changes"] = {"model": target}

    return change


LEDGERS: dict[str, Callable[[list[Any]], None]] = {
    **{f"target in {where}": _target(where) for where in ("base", "nested", "callbacks", "changes")},
    "outputs": lambda ledger: ledger[0]["base"]["paths"].update(outputs="../victim"),
    "name": lambda ledger: ledger[0].update(name="../../../victim"),
    "hash": lambda ledger: ledger[1].update(hash="../../../victim/x"),
    "overrides": lambda ledger: ledger[1].update(
        overrides=["paths.outputs=../victim", "--config-dir=.", "hydra.run.dir=../victim"]
    ),
    "words, target": lambda ledger: ledger[1].update(overrides=["+callbacks.x._target_=canary_in_cwd.Model"]),
    "command": lambda ledger: ledger[0].update(command=["sh", "-c", "touch zzhostile"]),
    "secret": lambda ledger: ledger[0]["base"].update(notes="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "logger": lambda ledger: ledger[0]["base"].update(
        logger={"x": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "../victim", "name": "x"}}
    ),
    "label": lambda ledger: ledger[1].update(label=["zzhostile\x1b[2J", "=1+1"]),
    "version": lambda ledger: ledger[0].update(version=99),
}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(n, marks=() if n in ("target in base", "target in changes", "outputs") else pytest.mark.slow)
        for n in LEDGERS
    ],
)
def test_a_ledger_is_data(new_case: Callable[..., Case], change: str) -> None:
    """The folders of the jobs are removed, so that they must run again."""
    import shutil

    case = new_case()
    for job in case.sweep.iterdir():
        if job.is_dir():
            shutil.rmtree(job)
    (case.sweep / "states.jsonl").unlink()
    ledger = read_record(case.sweep / "ledger.jsonl")
    LEDGERS[change](ledger)
    write_record(case.sweep / "ledger.jsonl", ledger)
    ended = resume(case)
    if change.startswith("target"):
        assert ended.returncode != 0 and "canary_in_cwd" in ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ("pipe", "link", "deep_lists", "sparse_gigabyte", "alias_bomb", "invalid_utf8", "directory", "empty")
)
@pytest.mark.parametrize("file", ("ledger.jsonl", "states.jsonl", ".lock", "study.jsonl", "mail", "cluster.json"))
def test_files_of_a_sweep(new_case: Callable[..., Case], file: str, kind: str) -> None:
    from tests.security.hostile import put

    case = new_case()
    path: Path = case.sweep / file
    if not path.exists():
        path.write_text("{}\n")
    put(kind, path, case.victim)
    resume(case)
    assert attack(case, "list") == []


def test_a_corrupt_cache_is_rebuilt(new_case: Callable[..., Case]) -> None:
    for text in ("[" * 10_000, "null\n", '{"job": []}\n', "\0", '{"job": "x", "written": "y"}\n' * 3):
        case = new_case()
        (case.sweep / "states.jsonl").write_text(text)
        assert attack(case, "compare_sweep") == []
        assert case.code == 0, case.stderr


def test_an_ordinary_sweep_is_resumed(new_case: Callable[..., Case]) -> None:
    case = new_case()
    assert resume(case).returncode == 0
