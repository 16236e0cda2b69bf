"""Run sweeps for benchmarks: whole commands, with one thread per process."""

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
"""Threads of torch in every process: more do not speed up a network this small."""


def timed_run(argv: Sequence[str]) -> tuple[float, str]:
    """Run ``python -m`` with arguments; return its duration in seconds and its output."""
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return seconds, done.stdout


def records(outputs: Path, jobs: int) -> list[dict[str, Any]]:
    """Return the records of the only sweep in a folder, all of whose jobs have finished."""
    contents = [json.loads(path.read_text()) for path in outputs.glob("sweeps/*/*/run.json")]
    assert [record["status"] for record in contents] == ["finished"] * jobs
    return contents
