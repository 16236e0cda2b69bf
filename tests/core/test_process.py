"""Allocator tuning: reuse of freed memory."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import resource, sys
import numpy as np
from src.core.process import tune_allocator

if sys.argv[1] == "keep":
    tune_allocator()

def step():
    activations = [np.ones(2**20, np.float32) for _ in range(16)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_reused_by_the_next_step() -> None:
    """A fault is memory that the system had to give; a step takes 64 MiB. By itself glibc keeps or returns it as the blocks
    happen to lie: the environment lets it return them.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}

    def faults_of(how: str) -> int:
        argv = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, check=True).stdout)

    faults = {how: faults_of(how) for how in ("keep", "leave")}
    assert 10 * faults["keep"] < faults["leave"]
