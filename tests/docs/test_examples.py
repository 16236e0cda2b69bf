"""The projects in examples/ are installed into a folder of their own, and their tests pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT

EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/pyproject.toml"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_tests_of_an_example_pass(name: str, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    source = shutil.copytree(ROOT / "examples" / name, tmp_path / "source")  # building leaves files in its folder
    subprocess.run([*pip, str(source)], check=True, capture_output=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "examples" / name / "tests")]
    done = subprocess.run(tests, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_the_files_of_the_example() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"`(my_project/[\w./]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 8
    for name, text in blocks:
        assert (ROOT / "examples" / name).read_text() == text, name
