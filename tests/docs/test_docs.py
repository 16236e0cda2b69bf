"""Everything on docs/extending.md works: its files, commands and Python are run in a temporary folder."""

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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and a run of its model."""
    folder = tmp_path_factory.mktemp("docs")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    words = ["-m", "src.train", "--config-dir", "my_project/conf", "model=highway", "optimizer=sign_sgd"]
    done = _run([*words, "callbacks=time_limit", "trainer.max_epochs=2", "logger=none"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "RUN").symlink_to(next((folder / "outputs" / "runs").glob("*/*")))
    return folder


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    own = EXPORT.removeprefix("export PYTHONPATH=")
    env = os.environ | {"PYTHONPATH": f"{own}{os.pathsep}{ROOT}", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_page_is_read_whole() -> None:
    assert len(FILES) == 8 and len(PYTHON) == 2 and len(COMMANDS) == 7
    assert PAGE.count("```python") + PAGE.count("```yaml") == len(FILES) + len(PYTHON)
    assert EXPORT == "export PYTHONPATH=my_project"


def test_page_is_about_twenty_lines_an_extension() -> None:
    for name, text in FILES.items():
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("import", "from"))]
        assert len(lines) <= 25, name


def _cases() -> list[object]:
    fast = ("--help", "src.evaluate", "src.predict")
    return [
        pytest.param(c, marks=[] if any(word in c for word in fast) else pytest.mark.slow, id=c[:70]) for c in COMMANDS
    ]


@pytest.mark.parametrize("command", _cases())
def test_command_runs(command: str, place: Path) -> None:
    words = shlex.split(command)[1:]
    if "src.train" in words and not {"--help", "resume=RUN"} & set(words):
        words += REDUCED
    words = [re.sub(r"max_epochs=\d+", "max_epochs=3", word) for word in words]
    done = _run(words, place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if "--help" in words:
        assert all(name in done.stdout for name in ("highway ", "moons ", "sign_sgd ", "time_limit "))
    if "src.predict" in words:
        assert re.search(r"0\.5,-0\.25 → (upper|lower)", done.stdout)
    if "-m" in words[2:]:
        assert "4 of 4 jobs finished" in done.stdout


def test_misspelled_choice_and_key_are_answered(place: Path) -> None:
    folder = ["-m", "src.train", "hydra.searchpath=[file://my_project/conf]"]
    wrong = _run([*folder, "model=higway"], place)
    assert wrong.returncode == 2 and "Did you mean 'highway'?" in wrong.stderr
    wrong = _run([*folder, "model=highway", "model.width=wide"], place)
    assert wrong.returncode == 2 and "model.width=wide" in wrong.stderr


def test_config_dir_does_not_hide_the_mistake(place: Path) -> None:
    wrong = _run(["-m", "src.train", "--config-dir", "my_project/conf", "model=higway"], place)
    assert wrong.returncode == 2 and "Did you mean 'highway'?" in wrong.stderr


@pytest.mark.slow
def test_python_runs(place: Path) -> None:
    script = "\n".join(PYTHON).replace('run(["', 'run(["trainer=smoke", "logger=none", "')
    done = _run(["-c", script], place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "val/loss" in done.stdout and "'prediction'" in done.stdout
