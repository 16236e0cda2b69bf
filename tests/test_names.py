"""Dotted names in strings, docs and configs exist: they are invisible to import-linter."""

import ast
import re
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from src import ROOT

NAME = re.compile(r"(?<![\w/.-])src(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(r"(?<![\w./])(?:src|tests|docs|benchmarks)/[\w/]+\.(?:py|md)\b")
FILES = [
    ROOT / name
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not name.startswith("tests/security/")  # it invents names
    and re.search(r"(\.(py|md|yaml|toml|js|sh)|Makefile)$", name)
]
INVENTED = {"src.models.mlp.MPL", "src.test", "src/model.py"}
"""Names that tests invent."""


@cache
def exists(name: str) -> bool:
    """Return whether a name is a module, a folder of modules, or defined by a module, without importing it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        rest = parts[length:]
        if path.is_dir() and not rest:
            return True
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if file.is_file():
            return not rest or defines(file, rest)
    return False


def defines(file: Path, names: list[str]) -> bool:
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    for name in names:
        definition = next((node for node in body if name in defined_by(node)), None)
        if definition is None:
            return False
        body = getattr(definition, "body", [])
    return True


def defined_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_dotted_names_and_paths_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    missing = [name for name in sorted(set(NAME.findall(text)) - INVENTED) if not exists(name)]
    missing += [path for path in sorted(set(PATH.findall(text)) - INVENTED) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("file", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda file: str(file.relative_to(ROOT)))
def test_each_target_can_be_imported(file: Path) -> None:
    for target in re.findall(r"^\s*_target_: *([\w.]+)", file.read_text(encoding="utf-8"), re.M):
        module, _, name = target.rpartition(".")
        if target == "null":
            continue
        assert hasattr(import_module(module), name), target
