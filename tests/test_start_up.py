"""Commands that train nothing load no heavy library, so that they start and refuse invalid input quickly."""

import ast
import json
import subprocess
import sys
from pathlib import Path

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


def _inner_imports(file: Path) -> list[str]:
    """Return the modules of this repository that the functions of a file import."""
    functions = (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef))
    imports = {n for f in functions for n in ast.walk(f) if isinstance(n, ast.ImportFrom)}
    return sorted({name for n in imports for name in _modules(n) if name.startswith("src.")})


def _modules(node: ast.ImportFrom) -> list[str]:
    name = node.module or ""
    is_package = ROOT.joinpath(*name.split(".")).is_dir()
    return [f"{name}.{alias.name}" for alias in node.names] if is_package else [name]


FILES_WITH_INNER_IMPORTS = [file for file in sorted((ROOT / "src").rglob("*.py")) if _inner_imports(file)]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES_WITH_INNER_IMPORTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_import_inside_a_function_saves_time(file: Path) -> None:
    """Its module is not loaded with the file: the import is not there to hide a cycle."""
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    code = f"import json, sys, {name}; print(json.dumps(sorted(sys.modules)))"
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert set(_inner_imports(file)) & set(json.loads(completed.stdout.splitlines()[-1])) == set()
