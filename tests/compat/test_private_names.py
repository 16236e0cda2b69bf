"""Private names of dependencies are used in src/compat/ only, and training works without any of them."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from src.compat.lightning_names import NAMES
from tests.conftest import ROOT

LIBRARIES = (
    "torch",
    "lightning",
    "lightning_utilities",
    "torchmetrics",
    "hydra",
    "omegaconf",
    "wandb",
    "optuna",
    "numpy",
)
PUBLIC = {"_replace", "_fields", "_asdict", "_make", "_metadata"}
"""Methods of named tuples, and the attribute of a state dict that contains the versions of layers."""
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("src", "hydra_plugins", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def private_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            library, *parts = name.split(".")
            if library in LIBRARIES and any(part.startswith("_") for part in parts):
                yield name


@cache
def names_of_this_repository() -> set[str]:
    """Return the names with one leading underscore that are defined in this repository."""
    names: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                base = ast.unparse(node.value)
                names |= {node.attr} if base in ("self", "cls") else set()
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("src/compat/")])
def test_no_private_name_of_a_library_is_used_outside_compat(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    own_names, stdlib = (
        names_of_this_repository(),
        {"_Unpickler", "_run_exitfuncs", "_actions", "_negative_number_matcher"},
    )
    private_uses = list(private_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            base = ast.unparse(node.value)
            if base.partition(".")[0] in LIBRARIES or "trainer" in base or node.attr not in own_names | PUBLIC | stdlib:
                private_uses.append(f"{base}.{node.attr}")
    assert private_uses == []


def train(folder: Path, command: list[str], **environment: str) -> list[str]:
    """Train for two epochs, and return the lines of the log."""
    overrides = ["model=mlp", "datamodule=function", "trainer=cpu", "trainer.max_epochs=2", "logger=none"]
    done = subprocess.run(
        [*command, *overrides, f"paths.outputs={folder}"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = folder.glob("runs/*/*")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert (run / "checkpoints" / "last.ckpt").is_file() and (run / "checkpoints" / "best.ckpt").is_file()
    return (run / "train.log").read_text().splitlines()


def test_run_in_stock_mode(tmp_path: Path) -> None:
    log = train(tmp_path, [sys.executable, "-m", "src.train"], GRIDLIGHT_STOCK="1")
    assert sum("Lightning's own loop trains" in line for line in log) == 1
    assert all("src/compat/fast_loop.py" not in line for line in log)


CLASSES = ("_TrainingEpochLoop", "_EvaluationLoop", "_DataFetcher", "_AutomaticOptimization", "_CheckpointConnector")
HIDDEN = [
    *(("lightning", name) for name in CLASSES),
    *(("lightning", name) for name in sorted({name for names in NAMES.values() for name in names if name[0] == "_"})),
    ("lightning", "_current_fx_name"),
    ("torchmetrics", "_error_on_missing_matplotlib"),
    ("hydra", "get_args_parser"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), HIDDEN)
def test_run_without_a_private_name(tmp_path: Path, library: str, name: str) -> None:
    train(tmp_path, [sys.executable, "-m", "tests.compat.renamed", library, name, "src.train"])


def test_run_without_the_class_of_the_training_loop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.compat.renamed", "lightning", "_TrainingEpochLoop", "src.train"]
    log = train(tmp_path, command)
    assert any("Lightning's own loop trains" in line for line in log)
