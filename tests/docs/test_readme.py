"""Every command of README.md runs, its tables are up to date, and its links and files exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs.catalogue import update_tables
from src import ROOT
from src.training.run import run

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", README, re.S | re.M) for line in block.splitlines() if line
]

# Set-up commands are not run, but compared with the recipes of the Makefile, which .ci/run executes.
SET_UP = {
    "python3 -m venv .venv": "train",
    ".venv/bin/pip install -c constraints.txt -e .": "train",
    '.venv/bin/pip install -c constraints.txt -e ".[test]"': "test",
}
FAST = (
    "python -m src.train --help",
    "python -m src.train",
    "python -m src.train --cfg job model=lstm",
    "python -m src.evaluate RUN split=val",
)
REDUCED = ["trainer=smoke", "logger=none"]


def _recipe(target: str, arguments: str = "") -> str:
    """Return the commands that make would run if nothing was built yet."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    command = ["make", "-n", "-B", target, f"ARGS={arguments}"]  # make itself may run these tests
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return completed.stdout.replace("pip install --quiet", "pip install")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run, an image and a text."""
    folder = tmp_path_factory.mktemp("readme")
    result = run([*REDUCED, f"paths.outputs={folder / 'outputs'}"], verbose=False)
    (folder / "RUN").symlink_to(result.folder)
    for name in ("one", "two"):
        shutil.copytree(result.folder, folder / "outputs" / "sweeps" / "lr" / name)
    Image.new("L", (32, 32), 10).save(folder / "digit.png")
    (folder / "my.txt").write_text("To be, or not to be, that is the question. " * 100, encoding="utf-8")
    return folder


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def _reduce(arguments: list[str]) -> list[str]:
    """Return a training command reduced to a few steps; other commands are unchanged."""
    if arguments[:3] == ["python", "-m", "src.tune"]:
        return [*arguments, *REDUCED]
    if arguments[:3] != ["python", "-m", "src.train"] or {"--help", "--cfg"} & set(arguments):
        return arguments
    if any(argument.startswith("resume=") for argument in arguments):
        return [re.sub(r"max_epochs=\d+", "max_epochs=2", argument) for argument in arguments]
    arguments = [argument for argument in arguments if not argument.startswith("trainer.max_epochs=")] + REDUCED
    if "model=transformer" in arguments:
        arguments.append("datamodule.train_size=500")
    return arguments


RUN_HERE = [command for command in COMMANDS if command.startswith("python -m ")]


def test_commands_are_found() -> None:
    assert len(RUN_HERE) >= 12 and len(set(COMMANDS)) == len(COMMANDS)


def test_every_command_has_its_test() -> None:
    others = [
        command
        for command in COMMANDS
        if command not in RUN_HERE and command not in SET_UP and not command.startswith("make ")
    ]
    assert others == ["source .venv/bin/activate", "pytest"]


@pytest.mark.slow
def test_pytest_runs_the_fast_tests() -> None:
    completed = _run([sys.executable, "-m", "pytest", "--collect-only", "--rootdir", str(ROOT), "-c",
                 str(ROOT / "pyproject.toml"), str(ROOT / "tests" / "docs" / "test_readme.py")], ROOT)  # fmt: skip
    assert completed.returncode == 0, completed.stdout
    assert "test_commands_are_found" in completed.stdout and "deselected" in completed.stdout


@pytest.mark.parametrize("command", SET_UP)
def test_set_up_commands_match_the_makefile(command: str) -> None:
    recipe = _recipe(SET_UP[command])
    assert " ".join(shlex.split(command)) in " ".join(shlex.split(recipe))


@pytest.mark.parametrize(
    ("command", "plain"),
    [
        (
            'make train ARGS="model=transformer optimizer=adamw"',
            "python -m src.train model=transformer optimizer=adamw",
        ),
        ("make test", "pytest"),
    ],
)
def test_make_commands_expand_to_the_python_commands(command: str, plain: str) -> None:
    assert command in COMMANDS and plain in COMMANDS
    _, target, *rest = shlex.split(command)
    last = _recipe(target, rest[0].removeprefix("ARGS=") if rest else "").splitlines()[-1].strip()
    if plain == "pytest":
        assert last.startswith(".venv/bin/python -m pytest")
    else:
        assert last == f".venv/bin/{plain}"


def test_every_make_command_is_checked() -> None:
    assert [command.split()[1] for command in COMMANDS if command.startswith("make ")] == ["train", "test"]


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=[] if command in FAST else pytest.mark.slow, id=command[:60]) for command in RUN_HERE],
)
def test_command_runs(command: str, workspace: Path) -> None:
    arguments = _reduce(shlex.split(command))
    completed = _run([sys.executable, *arguments[1:]], workspace)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stderr
    if arguments[2] == "src.train" and not {"--help", "--cfg"} & set(arguments):
        assert re.search(r"finished in|jobs finished", completed.stdout), completed.stdout


def test_fast_commands_are_in_the_readme() -> None:
    assert set(FAST) <= set(RUN_HERE)


def test_tables_are_up_to_date() -> None:
    assert update_tables(README) == README, "python -m docs.catalogue updates them"


def test_links_and_paths_exist() -> None:
    paths = re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"`((?:src|conf|tests|benchmarks)/[\w/.]*)`", README)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_keys_in_the_text_exist() -> None:
    from src.config.compose import compose

    cfg = compose([])
    for key in re.findall(r"`((?:regularization|scheduler|trainer|sweep|logger)\.[\w.]+)[=`]", README):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]
