"""Commands that train nothing load no heavy library, so that they start and refuse invalid input quickly."""

import subprocess
import sys

import pytest

from src import ROOT

LIGHT_ROOMS = ("config", "run_store", "comparison", "cli")
VERBS = sorted(file.stem for file in (ROOT / "src").glob("*.py") if file.stem != "__init__")
HEAVY = {"torch", "lightning", "torchmetrics", "wandb", "sklearn", "scipy", "pandas", "matplotlib", "optuna"}


def loaded_by(script: str, *arguments: str) -> set[str]:
    """Return which heavy libraries a script loads in a new interpreter."""
    code = f"{script}\nimport sys\nprint('loaded', *({HEAVY!r} & set(sys.modules)))"
    completed = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return set(completed.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_room_loads_no_heavy_library_at_import(room: str) -> None:
    files = sorted((ROOT / "src" / room).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert loaded_by("\n".join(f"import {name}" for name in names)) == set()


def test_verbs_load_no_heavy_library_at_import() -> None:
    assert loaded_by("\n".join(f"import src.{verb}" for verb in VERBS)) == set()


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("train", "optimizer.lrr=1"),
        ("train", "modle=mlp"),
        ("evaluate", "nowhere"),
        ("compare", "nowhere"),
        ("runs", "shwo"),
    ],
)
def test_invalid_command_is_refused_without_a_heavy_library(verb: str, argument: str) -> None:
    script = f"""
import runpy, sys
try:
    runpy.run_module("src.{verb}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 2, end.code
else:
    raise AssertionError("the command was accepted")"""
    assert loaded_by(script, argument) == set()
