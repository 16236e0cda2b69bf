"""A run as a folder that holds all that is needed to use it elsewhere: weights, config, code and a card."""

import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from src import ROOT
from src.core.console import echo
from src.errors import UserError
from src.tracking.console import shown
from src.tracking.keeping import KeptRun, size
from src.tracking.model_card import model_card

CODE = ("src", "conf", "hydra_plugins", "pyproject.toml", "constraints.txt", "README.md")
"""What of the repository makes a model run."""

_USE = """In the folder `code`, with Python 3.11 or newer:

```bash
python3 -m venv .venv
.venv/bin/pip install -c constraints.txt -e .
.venv/bin/python -m src.predict ../run INPUT
.venv/bin/python -m src.evaluate ../run split=test
.venv/bin/python -m src.runs rerun ../run
```

`predict` needs nothing but the checkpoint. The data are not in this folder: `evaluate` and `rerun` look for them where the
config says, and `datamodule.path=…` or `paths.data=…` says it anew."""


def pack(run: KeptRun, target: Path) -> None:
    """Write a run, its code and its card into a new folder.

    Args:
        run: with a checkpoint.
        target: the folder to make.

    Raises:
        UserError: if there is something at the target, or if the run has no checkpoint.
    """
    if target.exists():
        raise UserError(f"{target}: there is something already; name a folder that is to be made")
    if not (run.folder.has_checkpoint("best") or run.folder.has_checkpoint("last")):
        raise UserError(f"{shown(run.path)}: the run kept no checkpoint, so there is no model to use")
    from src.experiment import load

    loaded = load(run.path)
    target.mkdir(parents=True)
    try:
        shutil.copytree(run.path, target / "run", ignore=shutil.ignore_patterns("wandb", ".*"))
        how = _code(run, target / "code")
        files = {
            "run/": "the run folder: config.yaml, run.json, metrics.jsonl, checkpoints, plots",
            "code/": how,
        }
        (target / "README.md").write_text(model_card(run.folder, loaded.model.spec, _USE, files), encoding="utf-8")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    echo(f"{shown(target.absolute())}: {size(target) / 1e6:.1f} MB, begin with its README.md")


def _code(run: KeptRun, target: Path) -> str:
    """Write the code that the run was made with, where git still has it, else today's; and say which."""
    git = run.record.get("git") or {}
    target.mkdir()
    if git.get("revision") and git.get("diff_complete") and not git.get("untracked"):
        words = ["git", "archive", git["revision"], "--", *CODE]
        archived = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
        if archived.returncode == 0:
            with tarfile.open(fileobj=BytesIO(archived.stdout)) as tar:
                tar.extractall(target, filter="data")
            if _patched(target, git.get("diff") or ""):
                return (
                    f"the code of the run, revision {git['revision'][:12]}{' with its changes' if git['diff'] else ''}"
                )
            shutil.rmtree(target)
            target.mkdir()
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copy(source, target / name)
    return "the code of the day of this export: that of the run is not complete in git"


def _patched(target: Path, diff: str) -> bool:
    if not diff:
        return True
    included = [word for name in CODE for word in (f"--include={name}", f"--include={name}/*")]
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(target.absolute().parent)}  # it is no repository
    words = ["git", "apply", *included, "-"]
    return subprocess.run(words, cwd=target, input=diff, text=True, capture_output=True, env=outside).returncode == 0
