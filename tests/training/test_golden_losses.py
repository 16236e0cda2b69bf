"""What each model's training comes to after a few steps, in float64, against numbers that were written down.

A refactor keeps them. Where they are meant to change, ``pytest -n 0 tests/training/test_golden_losses.py --update-golden``
writes them anew, and the commit message says why.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.groups import CONF, groups
from src.training.run import run

FILE = Path(__file__).with_name("golden_losses.json")
MODELS = list(groups([CONF])["model"])


def losses(words: list[str]) -> dict[str, float]:
    result = run(words, verbose=False)
    return {name: result.metrics[name] for name in ("train/loss", "val/loss", "test/loss")}


@pytest.mark.parametrize("model", MODELS)
def test_golden_losses(model: str, fast: Callable[..., list[str]], request: pytest.FixtureRequest) -> None:
    found = losses(
        fast(f"model={model}", "trainer.precision=64-true", "trainer.max_epochs=2", "trainer.limit_train_batches=3")
    )
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if request.config.getoption("--update-golden"):
        FILE.write_text(json.dumps(dict(sorted((golden | {model: found}).items())), indent=2) + "\n")
        return
    assert model in golden, "no numbers yet: run with --update-golden, and look whether they are plausible"
    assert found == pytest.approx(golden[model], rel=1e-6)


def test_every_number_belongs_to_a_model() -> None:
    assert set(json.loads(FILE.read_text())) == set(MODELS)
