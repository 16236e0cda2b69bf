"""Commands of sweeps as processes of their own: started, waited for, and what they left behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src import ROOT

PRUNED = (
    *("search=optuna", "search.trials=4", "search.seed=1"),  # which takes the first of a list first
    *("search.pruner=median", "search.startup_jobs=1", "search.warmup_epochs=3"),
)
"""MakeOverrides of a search that ends jobs early."""


def start(argv: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "src.train", *argv],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes(marker: str) -> list[int]:
    """Return the processes whose environment contains the marker: all that a sweep started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARKER={marker}".encode() in path.read_bytes().split(b"\0") and _alive(path.parent):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _alive(process: Path) -> bool:
    return ") Z " not in (process / "stat").read_text()


def wait_for(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return result


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/run.json")}


def running(folder: Path, count: int) -> Callable[[], list[dict[str, Any]] | None]:
    """Return a function that checks, by the records, whether `count` jobs are training."""

    def look() -> list[dict[str, Any]] | None:
        found = [
            record
            for name, record in records(folder).items()
            if record["status"] == "running" and (folder / name / "checkpoints" / "last.ckpt").is_file()
        ]
        return found if len(found) >= count else None

    return look
