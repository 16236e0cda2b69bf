"""Provenance of a result."""

import importlib.metadata
import os
import subprocess
import time
from pathlib import Path

import pytest

from src.run_store import provenance as module
from src.run_store.provenance import DIFF_LIMIT, git_state, hardware, package_versions
from src.run_store.run_folder import RunFolder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "code.py").write_text("one\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_tree(repository: Path) -> None:
    state = git_state(repository)
    assert state is not None
    assert state["revision"] == git(repository, "rev-parse", "HEAD").strip()
    assert (state["branch"], state["diff"], state["untracked"]) == ("trunk", "", [])


def test_the_diff_rebuilds_the_code(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (repository / "code.py").write_text("two\n")
    git(repository, "add", ".")
    (repository / "code.py").write_text("two\nthree\n")
    (repository / "new.py").write_text("x\n")
    state = git_state(repository)
    assert state is not None and state["diff_complete"] and state["untracked"] == ["new.py"]
    copy = tmp_path_factory.mktemp("copy")
    git(copy, "clone", "-q", str(repository), ".")
    (copy / "the.diff").write_text(state["diff"])
    git(copy, "apply", "the.diff")
    assert (copy / "code.py").read_text() == "two\nthree\n"


def test_a_large_diff_is_marked_as_incomplete(repository: Path) -> None:
    (repository / "code.py").write_text("line\n" * DIFF_LIMIT)
    state = git_state(repository)
    assert state is not None and len(state["diff"]) == DIFF_LIMIT and not state["diff_complete"]


def test_outside_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(repository) is None


def test_a_git_that_hangs_does_not_stop_a_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = repository / "bin"
    slow.mkdir()
    (slow / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (slow / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "GIT_TIMEOUT", 0.2)
    start = time.monotonic()
    assert git_state(repository) is None
    assert time.monotonic() - start < 20  # git would take 30


def test_recorded_versions_are_the_installed_ones() -> None:
    versions = package_versions()
    assert versions["lightning"] == importlib.metadata.version("lightning")
    assert {"python", "torch", "hydra-core"} <= set(versions)


def test_hardware() -> None:
    machine = hardware()
    assert 1 <= machine["usable_cores"] <= machine["cores"]
    assert machine["cpu"] and machine["memory_gib"] > 0


def test_the_recorded_command_can_be_run(tmp_path: Path) -> None:
    command = ["python", "-m", "src.train", "regularization=[dropout,l2]", "notes=a 'b'"]
    record = RunFolder.create(tmp_path / "run", {"seed": 0}, command).record
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {record['command']}"], check=True, capture_output=True, text=True
    ).stdout
    assert printed.splitlines()[3:] == ["regularization=[dropout,l2]", "notes=a 'b'"]
