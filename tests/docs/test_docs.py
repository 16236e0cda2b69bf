"""The files, commands and Python code of docs/extending.md work in a temporary folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.S | re.M))
PYTHON = [
    block
    for name, block in re.findall(r"^([^\n]*)\n\n```python\n(.*?)^```$", PAGE, re.S | re.M)
    if not re.fullmatch(r"`[\w/.]+`:", name)
]
LINES = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M) for line in block.splitlines() if line
]
EXPORT, COMMANDS = LINES[0], LINES[1:]
REDUCED = ["trainer=smoke", "logger=none"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the page, and a run of its model."""
    folder = tmp_path_factory.mktemp("docs")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    arguments = ["-m", "src.train", "--config-dir", "my_project/mine/conf", "model=highway", "optimizer=sign_sgd"]
    completed = _run([*arguments, "callbacks=time_limit", "trainer.max_epochs=2", "logger=none"], folder)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (folder / "RUN").symlink_to(next((folder / "outputs" / "runs").glob("*/*")))
    return folder


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    user_path = EXPORT.removeprefix("export PYTHONPATH=")
    env = os.environ | {"PYTHONPATH": f"{user_path}{os.pathsep}{ROOT}", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


def test_all_blocks_of_the_page_are_found() -> None:
    assert len(FILES) == 8 and len(PYTHON) == 2 and len(COMMANDS) == 7
    assert PAGE.count("```python") + PAGE.count("```yaml") == len(FILES) + len(PYTHON)
    assert EXPORT == "export PYTHONPATH=my_project"


def test_extensions_have_at_most_25_lines() -> None:
    for name, text in FILES.items():
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("import", "from"))]
        assert len(lines) <= 25, name


def _cases() -> list[object]:
    fast_commands = ("--help", "src.evaluate", "src.predict")
    return [
        pytest.param(
            command, marks=[] if any(name in command for name in fast_commands) else pytest.mark.slow, id=command[:70]
        )
        for command in COMMANDS
    ]


@pytest.mark.parametrize("command", _cases())
def test_command_runs(command: str, workspace: Path) -> None:
    arguments = shlex.split(command)[1:]
    if "src.train" in arguments and not {"--help", "resume=RUN"} & set(arguments):
        arguments += REDUCED
    arguments = [re.sub(r"max_epochs=\d+", "max_epochs=3", argument) for argument in arguments]
    completed = _run(arguments, workspace)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stderr
    if "--help" in arguments:
        assert "Highway network" in completed.stdout and "model.num_layers" in completed.stdout
    if "src.predict" in arguments:
        assert re.search(r"0\.5,-0\.25 → (upper|lower)", completed.stdout)
    if "-m" in arguments[2:]:
        assert "4 of 4 jobs finished" in completed.stdout


def test_misspelled_option_and_invalid_value_are_explained(workspace: Path) -> None:
    folder = ["-m", "src.train", "hydra.searchpath=[file://my_project/mine/conf]"]
    completed = _run([*folder, "model=higway"], workspace)
    assert completed.returncode == 2 and "Did you mean 'highway'?" in completed.stderr
    completed = _run([*folder, "model=highway", "model.width=wide"], workspace)
    assert completed.returncode == 2 and "model.width=wide" in completed.stderr


def test_config_dir_suggests_the_nearest_match(workspace: Path) -> None:
    completed = _run(["-m", "src.train", "--config-dir", "my_project/mine/conf", "model=higway"], workspace)
    assert completed.returncode == 2 and "Did you mean 'highway'?" in completed.stderr


@pytest.mark.slow
def test_python_runs(workspace: Path) -> None:
    script = "\n".join(PYTHON).replace('run(["', 'run(["trainer=smoke", "logger=none", "')
    completed = _run(["-c", script], workspace)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "val/loss" in completed.stdout and "'prediction'" in completed.stdout
