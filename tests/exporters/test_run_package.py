"""An exported run: values of its record never reach git as options, and links are not followed."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.files import UnsafeFileError
from src.exporters import run_package
from src.run_store.archive import StoredRun
from src.run_store.run_folder import RunFolder
from src.training import inference
from tests.hostile import HOSTILE

SPEC = DataSpec("classification", "vector", (4,), (2,), class_names=("no", "yes"))
CONFIG = {
    "model": {"name": "mlp"},
    "datamodule": {"name": "digits"},
    "optimizer": {"name": "adam"},
    "scheduler": {"name": "none"},
    "regularization": {},
    "trainer": {"max_epochs": 1},
    "seed": 0,
}
CHANGE = """diff --git a/src/model.py b/src/model.py
--- a/src/model.py
+++ b/src/model.py
@@ -1 +1 @@
-old
+new
"""
LINK = """diff --git a/src/link b/src/link
new file mode {mode}
--- /dev/null
+++ b/src/link
@@ -0,0 +1 @@
+/etc/passwd
\\ No newline at end of file
"""


@pytest.fixture
def revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a repository with two revisions in place of Gridlight's, and return the first one."""
    root = tmp_path / "repository"
    for name in run_package.CODE:
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
    (root / "src/model.py").write_text("old\n")
    (root / "secret.txt").write_text("secret\n")
    monkeypatch.setattr(run_package, "ROOT", root)

    def git(*arguments: str) -> str:
        names = [part for role in ("user", "committer") for part in ("-c", f"{role}.name=x", "-c", f"{role}.email=x@x")]
        return subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    first = git("rev-parse", "HEAD").strip()
    (root / "src/model.py").write_text("today\n")
    git("commit", "-qam", "two")
    return first


def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **git: Any) -> StoredRun:
    """Return a run with a checkpoint and the record of its code."""
    loaded = SimpleNamespace(model=SimpleNamespace(spec=SPEC), config=SimpleNamespace(plain=lambda: CONFIG))
    monkeypatch.setattr("src.training.inference.load", lambda path: loaded)
    folder = RunFolder.create(tmp_path / "runs" / "120000-mlp-digits-aaaaaa", CONFIG, [])
    state = {"revision": None, "branch": None, "diff": "", "diff_complete": True, "untracked": []}
    folder.update(status="finished")
    record = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(record | {"git": state | git}))
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / "best.ckpt").write_bytes(b"weights")
    folder._release()
    return StoredRun.open(folder.path)


def test_a_run_replaced_by_a_link_after_its_weights_were_read_is_not_followed(
    revision: str, tmp_path: Path, monkeypatch: Any
) -> None:
    run, private = make_run(tmp_path, monkeypatch, revision=revision), tmp_path / "private"
    private.mkdir()
    (private / "id_rsa").write_text("secret")
    loaded = inference.load(run.path)

    def load(path: Path) -> Any:
        path.rename(tmp_path / "moved")
        path.symlink_to(private)
        return loaded

    run = StoredRun.open(run.path, root=tmp_path)
    monkeypatch.setattr("src.training.inference.load", load)
    with pytest.raises(UserError, match="this is a link"):
        run_package.pack(run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_the_code_of_the_revision_is_exported(revision: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    run_package.pack(make_run(tmp_path, monkeypatch, revision=revision), tmp_path / "packed")
    assert (tmp_path / "packed/code/src/model.py").read_text() == "old\n"
    assert (tmp_path / "packed/run/checkpoints/best.ckpt").read_bytes() == b"weights"
    assert f"the code of the run, revision {revision[:12]}" in (tmp_path / "packed/README.md").read_text()
    assert revision[:12] in capsys.readouterr().out


@pytest.mark.parametrize(
    "value",
    [
        *("--output=keep", "--remote=ssh://-oProxyCommand=touch keep", "-v", "HEAD", "main", "@{upload}"),
        *("a" * 39, "A" * 40, "a" * 40, f"{'a' * 40}\n", "a" * 64, ["a" * 40], {"a": 1}, 7, *HOSTILE),
    ],
    ids=ascii,
)
def test_an_invalid_revision_is_not_passed_to_git(
    value: Any, revision: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    file = tmp_path / "repository" / "keep"
    file.write_text("keep")
    run_package.pack(make_run(tmp_path, monkeypatch, revision=value), tmp_path / "packed")
    assert file.read_text() == "keep" and (tmp_path / "packed/code/src/model.py").read_text() == "today\n"
    assert "the code at the time of this export" in capsys.readouterr().out


def test_changes_are_applied_only_with_the_flag(revision: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    run = make_run(tmp_path, monkeypatch, revision=revision, diff=CHANGE)
    run_package.pack(run, tmp_path / "without")
    assert (tmp_path / "without/code/src/model.py").read_text() == "old\n"
    assert "without its changes" in capsys.readouterr().out
    assert "without its changes" in (tmp_path / "without/README.md").read_text()
    run_package.pack(run, tmp_path / "with", apply_changes=True)
    assert (tmp_path / "with/code/src/model.py").read_text() == "new\n"
    assert "with its changes" in (tmp_path / "with/README.md").read_text()


@pytest.mark.parametrize(
    "diff",
    [
        *(LINK.format(mode=mode) for mode in ("120000", "160000", "0120000", "120000 x", " 120000", "040000")),
        CHANGE.replace("--- a/", "old mode 100644\nnew mode 120000\n--- a/"),
        CHANGE.replace("--- a/", "index 1234567..7654321 120000\n--- a/"),
        CHANGE + "GIT binary patch\nliteral 9\n",
        CHANGE + " x" * 50_000,
    ],
    ids=lambda diff: ascii(str(diff)[-60:]),
)
def test_changes_other_than_text_are_rejected(diff: Any, revision: str, tmp_path: Path, monkeypatch: Any) -> None:
    run = make_run(tmp_path, monkeypatch, revision=revision, diff=diff)
    with pytest.raises(UserError, match="not only text changes of regular files"):
        run_package.pack(run, tmp_path / "packed", apply_changes=True)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    "path", ["../outside", "/tmp/outside", ".git/hooks/post-checkout", "secret.txt", "src/../../x"]
)
def test_changes_stay_within_the_code(path: str, revision: str, tmp_path: Path, monkeypatch: Any) -> None:
    diff = LINK.format(mode="100755").replace("src/link", path)
    before = sorted(file for file in tmp_path.rglob("*") if "packed" not in file.parts)
    run = make_run(tmp_path, monkeypatch, revision=revision, diff=CHANGE + diff)
    run_package.pack(run, tmp_path / "packed", apply_changes=True)
    code = tmp_path / "packed/code"
    files = {file.relative_to(code).as_posix() for file in code.rglob("*") if file.is_file()}
    assert files == {"src/model.py", *(f"{name}/file" for name in run_package.CODE)}
    after = sorted(file for file in tmp_path.rglob("*") if not {"packed", "runs"} & set(file.parts))
    assert after == before and not Path("/tmp/outside").exists()


@pytest.mark.parametrize("name", ["train.log", "checkpoints/last.ckpt", "plots", "a/b/c.txt"])
@pytest.mark.parametrize("kind", ["file", "folder", "missing", "inside", "pipe"])
def test_a_link_or_a_pipe_is_rejected_by_name(
    name: str, kind: str, revision: str, tmp_path: Path, monkeypatch: Any
) -> None:
    run = make_run(tmp_path, monkeypatch, revision=revision)
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("secret")
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    targets = {"file": "private/key", "folder": "private", "missing": "none", "inside": run.path / "config.yaml"}
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / targets[kind])
    with pytest.raises(UnsafeFileError, match=Path(name).name):
        run_package.pack(run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_target_within_the_run_or_on_a_link_is_rejected(revision: str, tmp_path: Path, monkeypatch: Any) -> None:
    run = make_run(tmp_path, monkeypatch, revision=revision)
    with pytest.raises(UserError, match="this is within the exported run"):
        run_package.pack(run, run.path / "packed")
    (tmp_path / "alias").symlink_to(run.path)
    with pytest.raises(UserError, match="this is within the exported run"):
        run_package.pack(run, tmp_path / "alias" / "packed")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(UserError, match="it already exists"):
        run_package.pack(run, tmp_path / "dangling")


def test_a_run_larger_than_the_disk_is_rejected(revision: str, tmp_path: Path, monkeypatch: Any) -> None:
    run = make_run(tmp_path, monkeypatch, revision=revision)
    with (run.path / "sparse").open("wb") as file:
        file.truncate(10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(UserError, match="MB are free"):
        run_package.pack(run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
