"""What every test stands on: one thread, nothing sent anywhere, all files under the test's own folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, here and in the commands that tests start
os.environ["MKL_NUM_THREADS"] = "1"

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[1]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process as it was: its environment (runs and Hydra change it) and Hydra's global state."""
    before = dict(os.environ)
    monkeypatch.chdir(ROOT)
    for name in ("HYDRA_FULL_ERROR", "GRIDLIGHT_RUN_FOLDER", "LOCAL_RANK", "WANDB_API_KEY", "WANDB_PROJECT"):
        os.environ.pop(name, None)
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    yield
    GlobalHydra.instance().clear()
    os.environ.clear()
    os.environ.update(before)


# What a choice needs beside itself, to make sense.
COMPANIONS = {
    "regularization=spatial_dropout": ["model=cnn"],
    "regularization=stochastic_depth": ["model=resnet"],
    "datamodule=dates": ["model=transformer"],
    "datamodule=text": ["model=transformer"],
    "datamodule=adding": ["model=gru"],
    "datamodule=copy": ["model=lstm"],
    "datamodule=series": ["model=gru"],
    "callbacks=gradient_through_time": ["model=rnn"],
}

# What makes the slower data sources small.
SMALL = {
    "dates": ["train_size=96", "val_size=16", "test_size=16", "languages=[en,de]"],
    "mackey_glass": ["length=400"],
    "adding": ["lag=10", "train_size=96", "val_size=16", "test_size=16"],
    "copy": ["lag=5", "symbols=3", "train_size=96", "val_size=16", "test_size=16"],
    "text": ["context=16", "batch_size=8", "val_fraction=0.2", "test_fraction=0.2"],
}


@pytest.fixture
def complete(tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that adds to some words of a command line what makes them a whole one that works."""
    from src.config.compose import compose

    def words(*choices: str) -> list[str]:
        added = [word for choice in choices for word in COMPANIONS.get(choice, [])]
        groups = {word.partition("=")[0] for word in choices}
        result = [*choices, *(word for word in added if word.partition("=")[0] not in groups)]
        if compose(result).datamodule.name == "text" and not any(w.startswith("datamodule.path=") for w in result):
            file = tmp_path / "text.txt"
            file.write_text("It was the best of times, it was the worst of times, it was the age of wisdom. " * 12)
            result.append(f"datamodule.path={file}")
        if compose(result).datamodule.name == "series" and not any(w.startswith("datamodule.path=") for w in result):
            file = tmp_path / "series.csv"
            file.write_text("x\n" + "".join(f"{(n % 24) ** 2 / 100 + n % 7}\n" for n in range(600)))
            result.append(f"datamodule.path={file}")
        return result

    return words


@pytest.fixture
def fast(tmp_path: Path, complete: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return a function that makes a run of a few steps on little data of some words of a command line; it writes under
    the test's own folder, and the words themselves come last.
    """
    from src.config.compose import compose

    def words(*choices: str) -> list[str]:
        result = complete(*choices)
        groups = {word.partition("=")[0] for word in result}
        data = str(compose(result).datamodule.name)
        small = [
            *(word for word in ("trainer=smoke", "logger=none") if word.partition("=")[0] not in groups),
            *(f"datamodule.{word}" for word in SMALL.get(data, [])),
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=2",
            "trainer.limit_val_batches=2",
            "trainer.limit_test_batches=2",
            f"paths.outputs={tmp_path}/outputs",
        ]
        return [*(word for word in small if word.partition("=")[0] not in groups), *result]

    return words


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden_losses.json anew")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs ``python -m <words>`` from the repository's root, as a person would."""

    def run(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, env=os.environ | env, text=True, capture_output=True, timeout=300
        )

    return run
