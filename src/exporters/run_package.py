"""A run as a folder that holds all that is needed to use it elsewhere: weights, config, code and a card."""

import os
import re
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

from src import ROOT
from src.config.trust import trust_flag
from src.core.console import echo, shown
from src.core.errors import UserError
from src.core.files import copy_tree_below
from src.exporters.model_card import model_card
from src.run_store.archive import KeptRun, size
from src.run_store.provenance import DIFF_LIMIT, run_git

CODE = ("src", "conf", "hydra_plugins", "pyproject.toml", "constraints.txt", "README.md")
"""What of the repository makes a model run."""

_USE = """In the folder `code`, with Python 3.11 or newer:

```bash
python3 -m venv .venv
.venv/bin/pip install -c constraints.txt -e .
.venv/bin/python -m src.predict ../run INPUT{trust}
.venv/bin/python -m src.evaluate ../run split=test{trust}
.venv/bin/python -m src.runs rerun ../run{trust}
```

`predict` needs nothing but the checkpoint. The data are not in this folder: `evaluate` and `rerun` read them from the paths in
the config, which `datamodule.path=…` or `paths.data=…` replaces.{own}"""

_OWN = """

The run uses modules that are not part of Gridlight and not in this folder. Install them first: `--trust` lets the config of the
run import them."""


_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MODE = re.compile(r"^(?:(?:new|old|deleted)(?: file)? mode|index \S*)([^\n]*)", re.MULTILINE)
"""The lines of a diff that give a file's mode."""

_FILES = ("", "100644", "100755")
"""Modes of regular files, where one is given; the others are of links and submodules."""

_GIT_SECONDS = 60.0


def pack(run: KeptRun, target: Path, apply_changes: bool = False) -> None:
    """Write a run, its code and its card into a new folder.

    Args:
        run: with a checkpoint.
        target: the folder to make.
        apply_changes: apply the recorded changes of the code to its recorded revision. They are part of the run folder,
            so whoever wrote it decides what that code does.

    Raises:
        UserError: if there is something at the target, if it is within the run, if the run has no checkpoint, or if the run
            folder contains a link.
    """
    if os.path.lexists(target):
        raise UserError(f"{target}: there is something already; name a folder that is to be made")
    if target.resolve().is_relative_to(run.path.resolve()):
        raise UserError(f"{target}: this is within the run that is exported; name a folder outside")
    if not (run.folder.has_checkpoint("best") or run.folder.has_checkpoint("last")):
        raise UserError(f"{shown(run.path)}: the run kept no checkpoint, so there is no model to use")
    from src.training.inference import load

    loaded = load(run.path)
    target.mkdir(parents=True)
    try:
        if (needed := size(run.path)) > (free := shutil.disk_usage(target).free):
            raise UserError(f"{target}: {free / 1e6:,.0f} MB are free, and the run has {needed / 1e6:,.0f} MB")
        copy_tree_below(run.path, target / "run", leave_out=("wandb",))
        how = _code(run, target / "code", apply_changes)
        files = {
            "run/": "the run folder: config.yaml, run.json, metrics.jsonl, checkpoints, plots",
            "code/": how,
        }
        config = loaded.config.plain()
        trust = trust_flag(config)
        use = _USE.format(trust=trust, own=_OWN if trust else "")
        card = model_card(run.folder, config, loaded.model.spec, use, files)
        (target / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    echo(f"code/: {how}")
    echo(f"{shown(target.absolute())}: {size(target) / 1e6:.1f} MB, begin with its README.md")


def _code(run: KeptRun, target: Path, apply_changes: bool) -> str:
    """Write the code that the run was made with, where git still has it, else today's; and describe it."""
    git = run.record.get("git")
    git = git if isinstance(git, dict) else {}
    revision, diff = git.get("revision"), git.get("diff") or ""
    target.mkdir()
    why = "that of the run is not complete in git"
    if not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        why = "the run records no revision"
    elif git.get("diff_complete") and not git.get("untracked"):
        if not diff or not apply_changes:
            if _archived(revision, target):
                left = ", without its changes (runs export --apply-changes applies them)" if diff else ""
                return f"the code of the run, revision {revision[:12]}{left}"
        elif not _applicable(diff):
            raise UserError(
                "--apply-changes: the recorded changes are not only text changes of regular files, so they are not applied. "
                "Leave the flag out to export the code without them"
            )
        elif _archived(revision, target):
            if _patched(target, diff):
                return f"the code of the run, revision {revision[:12]} with its changes"
            shutil.rmtree(target)
            target.mkdir()
            why = "the recorded changes do not fit the recorded revision"
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copy(source, target / name)
    return f"the code of the day of this export: {why}"


def _archived(revision: str, target: Path) -> bool:
    """Write the code of a commit, and return whether there is such a commit.

    Args:
        revision: hexadecimal digits.
        target: an empty folder.
    """
    if run_git(ROOT, "cat-file", "commit", revision) is None:
        return False
    archive = run_git(ROOT, "archive", "--format=tar", revision, "--", *CODE, seconds=_GIT_SECONDS)
    if archive is None:
        return False
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return True


def _applicable(diff: object) -> bool:
    """Return whether a recorded diff changes the text of regular files, and nothing else."""
    return (
        isinstance(diff, str)
        and len(diff) <= DIFF_LIMIT
        and "GIT binary patch" not in diff
        and all(mode.strip() in _FILES for mode in _MODE.findall(diff))
    )


def _patched(target: Path, diff: str) -> bool:
    """Apply a diff to the files of `CODE`; git refuses paths that leave the folder, and paths below links."""
    included = [word for name in CODE for word in (f"--include={name}", f"--include={name}/*")]
    given = diff.encode("utf-8", errors="surrogateescape")
    return run_git(target, "apply", *included, "-", given=given, alone=True, seconds=_GIT_SECONDS) is not None
