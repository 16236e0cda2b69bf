"""What each command must not load: these modules take a tenth of a second to two seconds each."""

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
    "torch._dynamo.eval_frame",  # torch's compiler is asleep, see src/compat/lazy_dynamo.py
    "torch._inductor",
}

PROGRAM = """
import atexit, json, runpy, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules))))
module, sys.argv[1:] = sys.argv[1], sys.argv[2:]
runpy.run_module(module, run_name="__main__")
"""


def loaded(*overrides: str) -> set[str]:
    """Return the modules that a command has loaded at its end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *overrides], cwd=ROOT, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "overrides",
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
def test_an_answer_without_training_loads_no_torch(overrides: tuple[str, ...]) -> None:
    assert (TORCH | RARE) & loaded(*overrides) == set()


def test_a_run_loads_what_it_uses(fast: Callable[..., list[str]]) -> None:
    modules = loaded("src.train", *fast("model=mlp"))
    assert modules > TORCH  # it has trained
    assert RARE & modules == set()


def test_a_group_loads_what_it_uses() -> None:
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


def test_what_was_left_out_is_there_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
