"""Every command of README.md is run, its tables are those of the code, and its links and files exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs.catalogue import written
from src import ROOT
from src.training.run import run

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", README, re.S | re.M) for line in block.splitlines() if line
]

# Set-up commands are not run but checked against the recipes of the Makefile, which .ci/run executes.
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
    """Return the lines that make would run, from nothing."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    words = ["make", "-n", "-B", target, f"ARGS={arguments}"]  # these tests themselves are run by make
    done = subprocess.run(words, cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
    return done.stdout.replace("pip install --quiet", "pip install")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, an image and a text."""
    folder = tmp_path_factory.mktemp("readme")
    result = run([*REDUCED, f"paths.outputs={folder / 'outputs'}"], verbose=False)
    (folder / "RUN").symlink_to(result.folder)
    for name in ("one", "two"):
        shutil.copytree(result.folder, folder / "outputs" / "sweeps" / "lr" / name)
    Image.new("L", (32, 32), 10).save(folder / "digit.png")
    (folder / "my.txt").write_text("To be, or not to be, that is the question. " * 100, encoding="utf-8")
    return folder


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def _reduce(words: list[str]) -> list[str]:
    """Return a command of training, cut down to a few steps; other commands as they stand."""
    if words[:3] == ["python", "-m", "src.tune"]:
        return [*words, *REDUCED]
    if words[:3] != ["python", "-m", "src.train"] or {"--help", "--cfg"} & set(words):
        return words
    if any(word.startswith("resume=") for word in words):
        return [re.sub(r"max_epochs=\d+", "max_epochs=2", word) for word in words]
    words = [word for word in words if not word.startswith("trainer.max_epochs=")] + REDUCED
    if "model=transformer" in words:
        words.append("datamodule.train_size=500")
    return words


RUN_HERE = [c for c in COMMANDS if c.startswith("python -m ")]


def test_commands_are_found() -> None:
    assert len(RUN_HERE) >= 12 and len(set(COMMANDS)) == len(COMMANDS)


def test_every_command_has_its_test() -> None:
    others = [c for c in COMMANDS if c not in RUN_HERE and c not in SET_UP and not c.startswith("make ")]
    assert others == ["source .venv/bin/activate", "pytest"]


@pytest.mark.slow
def test_pytest_runs_the_fast_tests() -> None:
    done = _run([sys.executable, "-m", "pytest", "--collect-only", "--rootdir", str(ROOT), "-c",
                 str(ROOT / "pyproject.toml"), str(ROOT / "tests" / "test_readme.py")], ROOT)  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "test_commands_are_found" in done.stdout and "deselected" in done.stdout


@pytest.mark.parametrize("command", SET_UP)
def test_set_up_is_what_make_does(command: str) -> None:
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
def test_make_commands_expand_to_the_plain_ones(command: str, plain: str) -> None:
    assert command in COMMANDS and plain in COMMANDS
    _, target, *rest = shlex.split(command)
    last = _recipe(target, rest[0].removeprefix("ARGS=") if rest else "").splitlines()[-1].strip()
    if plain == "pytest":
        assert last.startswith(".venv/bin/python -m pytest")
    else:
        assert last == f".venv/bin/{plain}"


def test_every_make_command_is_checked() -> None:
    assert [c.split()[1] for c in COMMANDS if c.startswith("make ")] == ["train", "test"]


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[] if c in FAST else pytest.mark.slow, id=c[:60]) for c in RUN_HERE]
)
def test_command_runs(command: str, place: Path) -> None:
    words = _reduce(shlex.split(command))
    done = _run([sys.executable, *words[1:]], place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if words[2] == "src.train" and not {"--help", "--cfg"} & set(words):
        assert re.search(r"finished in|jobs finished", done.stdout), done.stdout


def test_fast_commands_stand_in_the_readme() -> None:
    assert set(FAST) <= set(RUN_HERE)


def test_tables_follow_from_the_code() -> None:
    assert written(README) == README, "python -m docs.catalogue writes them anew"


def test_links_and_paths_exist() -> None:
    paths = re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"`((?:src|conf|tests|benchmarks)/[\w/.]*)`", README)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_keys_that_the_text_names_exist() -> None:
    from src.config.compose import compose

    cfg = compose([])
    for key in re.findall(r"`((?:regularization|scheduler|trainer|sweep|logger)\.[\w.]+)[=`]", README):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]
