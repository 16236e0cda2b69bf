"""A run as a folder with all that is needed to use it elsewhere: weights, config, code and a model card."""

import os
import re
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

from src import ROOT
from src.config.trust import trust_flag
from src.core.console import display_path, echo
from src.core.errors import UserError
from src.core.files import copy_tree_below
from src.exporters.model_card import model_card
from src.run_store.archive import StoredRun, folder_size
from src.run_store.provenance import DIFF_LIMIT, run_git

CODE = ("src", "conf", "hydra_plugins", "pyproject.toml", "constraints.txt", "README.md")
"""Files and folders of the repository that a model needs."""

_USE = """In the folder `code`, with Python 3.11 or newer:

```bash
python3 -m venv .venv
.venv/bin/pip install -c constraints.txt -e .
.venv/bin/python -m src.predict ../run INPUT{trust}
.venv/bin/python -m src.evaluate ../run split=test{trust}
.venv/bin/python -m src.runs rerun ../run{trust}
```

`predict` needs only the checkpoint. The data are not in this folder: `evaluate` and `rerun` read them from the paths in
the config, which `datamodule.path=…` or `paths.data=…` replaces.{extensions}"""

_EXTENSIONS = """

The run uses modules that are not part of Gridlight and not in this folder. Install them first: `--trust` lets the config of the
run import them."""


_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MODE = re.compile(r"^(?:(?:new|old|deleted)(?: file)? mode|index \S*)([^\n]*)", re.MULTILINE)
"""Lines of a diff that state the mode of a file."""

_FILE_MODES = ("", "100644", "100755")
"""Modes of regular files, or none; other modes are of links and submodules."""

_GIT_SECONDS = 60.0


def pack(run: StoredRun, target: Path, apply_changes: bool = False) -> None:
    """Write a run, its code and its model card into a new folder.

    Args:
        run: run with a checkpoint.
        target: folder to create.
        apply_changes: apply the recorded changes of the code to its recorded revision. They are part of the run folder, so that
            its author decides what that code does.

    Raises:
        UserError: if the target exists or is within the run, if the run has no checkpoint, or if the run folder contains a link.
    """
    if os.path.lexists(target):
        raise UserError(f"{target}: it already exists; name a new folder")
    if target.resolve().is_relative_to(run.path.resolve()):
        raise UserError(f"{target}: this is within the exported run; name a folder outside it")
    if not (run.folder.has_checkpoint("best") or run.folder.has_checkpoint("last")):
        raise UserError(f"{display_path(run.path)}: the run has no checkpoint, so there is no model to export")
    from src.training.inference import load

    loaded = load(run.path)
    target.mkdir(parents=True)
    try:
        needed, free = folder_size(run.path), shutil.disk_usage(target).free
        if needed > free:
            raise UserError(f"{target}: {free / 1e6:,.0f} MB are free, and the run has {needed / 1e6:,.0f} MB")
        root = run.folder.root or run.path
        copy_tree_below(root, run.path.relative_to(root), target / "run", leave_out=("wandb",))
        code = _write_code(run, target / "code", apply_changes)
        files = {
            "run/": "the run folder: config.yaml, run.json, metrics.jsonl, checkpoints, plots",
            "code/": code,
        }
        config = loaded.config.plain()
        trust = trust_flag(config)
        use = _USE.format(trust=trust, extensions=_EXTENSIONS if trust else "")
        card = model_card(run.folder, config, loaded.model.spec, use, files)
        (target / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    echo(f"code/: {code}")
    echo(f"{display_path(target.absolute())}: {folder_size(target) / 1e6:.1f} MB; start with its README.md")


def _write_code(run: StoredRun, target: Path, apply_changes: bool) -> str:
    """Write the code of the run if git has it, else the current code; return a description."""
    git = run.record.get("git") or {}
    revision, diff = git.get("revision", ""), git.get("diff", "")
    target.mkdir()
    reason = "the code of the run is not complete in git"
    if not _REVISION.fullmatch(revision):
        reason = "the run records no revision"
    elif git.get("diff_complete") and not git.get("untracked"):
        if not diff or not apply_changes:
            if _extract_revision(revision, target):
                note = ", without its changes (runs export --apply-changes applies them)" if diff else ""
                return f"the code of the run, revision {revision[:12]}{note}"
        elif not _is_text_diff(diff):
            raise UserError(
                "--apply-changes: the recorded changes are not only text changes of regular files, so they are not applied. "
                "Leave the flag out to export the code without them"
            )
        elif _extract_revision(revision, target):
            if _apply_diff(target, diff):
                return f"the code of the run, revision {revision[:12]} with its changes"
            shutil.rmtree(target)
            target.mkdir()
            reason = "the recorded changes do not apply to the recorded revision"
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copy(source, target / name)
    return f"the code at the time of this export: {reason}"


def _extract_revision(revision: str, target: Path) -> bool:
    """Write the code of a commit, and return whether the commit exists.

    Args:
        revision: hexadecimal digits.
        target: empty folder.
    """
    if run_git(ROOT, "cat-file", "commit", revision) is None:
        return False
    archive = run_git(ROOT, "archive", "--format=tar", revision, "--", *CODE, timeout=_GIT_SECONDS)
    if archive is None:
        return False
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return True


def _is_text_diff(diff: str) -> bool:
    """Return whether a recorded diff only changes the text of regular files."""
    modes = [mode.strip() for mode in _MODE.findall(diff)]
    return len(diff) <= DIFF_LIMIT and "GIT binary patch" not in diff and set(modes) <= set(_FILE_MODES)


def _apply_diff(target: Path, diff: str) -> bool:
    """Apply a diff to the files of `CODE`; git rejects paths outside the folder and below links."""
    patterns = [f"--include={pattern}" for name in CODE for pattern in (name, f"{name}/*")]
    content = diff.encode("utf-8", errors="surrogateescape")
    return run_git(target, "apply", *patterns, "-", stdin=content, isolated=True, timeout=_GIT_SECONDS) is not None
