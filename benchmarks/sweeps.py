"""Sweeps as benchmarks run them: whole commands, of one thread a process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src import ROOT

THREADS = "1"
"""Of torch, in every process: a second one only gets in the way of a network so small."""


def timed(words: Sequence[str]) -> tuple[float, str]:
    """Run ``python -m`` with some words; return how many seconds it took, and what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return seconds, done.stdout


def records(outputs: Path, jobs: int) -> list[dict[str, Any]]:
    """Return the records of the one sweep in a folder, whose jobs have all finished."""
    found = [json.loads(path.read_text()) for path in outputs.glob("sweeps/*/*/run.json")]
    assert [record["status"] for record in found] == ["finished"] * jobs
    return found
