"""An ordinary run and an ordinary sweep, made once, which each case copies and changes."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.security.harness import Case

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "datamodule=digits",
    "model=mlp",
    "model.hidden_sizes=[8]",
    "trainer=smoke",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "logger=none",
]


def train(folder: Path, *argv: str) -> None:
    """Train in a process of its own, and write into a folder."""
    command = [sys.executable, "-m", "src.train", *argv, f"paths.outputs={folder}"]
    ended = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, timeout=300, env=os.environ | {"WANDB_MODE": "offline"}
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``run`` and ``good``, two runs, and ``sweep``, a sweep of two jobs."""
    made, outputs = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("ordinary") / "outputs"
    outputs.mkdir()
    train(made / "a", *SMALL)
    train(made / "b", "-m", "sweep.name=sweep", "seed=0,1", *SMALL)
    run = next((made / "a").glob("runs/*/*"))
    shutil.copytree(run, outputs / "run")
    shutil.copytree(run, outputs / "good")
    shutil.copytree(made / "b" / "sweeps" / "sweep", outputs / "sweep")
    return outputs


@pytest.fixture
def new_case(ordinary: Path, tmp_path: Path) -> Iterator[Callable[..., Case]]:
    """Return a function that makes a workspace with a copy of the ordinary folder; the one before it is removed."""
    numbers = itertools.count()
    last: list[Path] = []

    def made(outputs: Path | None = ordinary) -> Case:
        for folder in last:
            shutil.rmtree(folder, ignore_errors=True)
        last[:] = [tmp_path / f"case{next(numbers)}"]
        return Case(last[0], outputs)

    yield made
