"""Modules that each command must not load; each takes a tenth of a second to two seconds."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT

TORCH = {"torch", "lightning", "torchmetrics", "numpy"}
RARE = {
    "scipy.signal",
    "scipy.stats",
    "sklearn",
    "matplotlib",
    "onnxruntime",
    "requests",
    "pandas",
    "wandb",
    "kornia",
    "optuna",
    "plotly",
    "babel",
    "sympy",
    "torch._dynamo.eval_frame",  # lazy import of torch's compiler, see src/compat/lazy_dynamo.py
    "torch._inductor",
}

PROGRAM = """
import atexit, json, runpy, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules))))
module, sys.argv[1:] = sys.argv[1], sys.argv[2:]
runpy.run_module(module, run_name="__main__")
"""


def loaded(*argv: str) -> set[str]:
    """Return the modules that are loaded at the end of a command."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], cwd=ROOT, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "argv",
    [
        ("src.train", "--help"),
        ("src.train", "optimizer.lrr=1"),
        ("src.train", "model=mpl"),
        ("src.train", "--cfg", "job"),
        ("src.evaluate", "no/such/run"),
        ("src.compare", "no/such/folder"),
    ],
    ids=" ".join,
)
def test_command_without_training_loads_no_torch(argv: tuple[str, ...]) -> None:
    assert (TORCH | RARE) & loaded(*argv) == set()


def test_run_loads_no_rare_modules(fast: Callable[..., list[str]]) -> None:
    modules = loaded("src.train", *fast("model=mlp"))
    assert modules > TORCH  # a sign that it trained
    assert RARE & modules == set()


def test_fused_worker_loads_no_rare_modules() -> None:
    program = "import json, sys, src.training.build, src.fused.worker; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (RARE | {"pytorch_optimizer"}) & set(json.loads(done.stdout)) == set()


DRAWS = """
from src.training import build as experiment
import scipy.signal, torch, torchmetrics
assert scipy.signal.get_window("hamming", 4).shape == (4,)
metric = torchmetrics.classification.MulticlassAccuracy(2)
metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
figure, axes = metric.plot()
from matplotlib.axes import Axes
assert isinstance(axes, Axes)
"""


def test_excluded_packages_are_available_when_needed() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
