"""Golden losses: the losses of each model after a few steps in float64 equal recorded values.

A refactoring must keep them. To update them after an intended change, run
``pytest -n 0 tests/training/test_golden_losses.py --update-golden``, and give the reason in the commit message.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.groups import CONF, groups
from src.training.run import run

FILE = Path(__file__).with_name("golden_losses.json")
MODELS = list(groups([CONF])["model"])


def losses(overrides: list[str]) -> dict[str, float]:
    result = run(overrides, verbose=False)
    return {name: result.metrics[name] for name in ("train/loss", "val/loss", "test/loss")}


@pytest.mark.parametrize("model", MODELS)
def test_golden_losses(model: str, fast: Callable[..., list[str]], request: pytest.FixtureRequest) -> None:
    actual = losses(
        fast(f"model={model}", "trainer.precision=64-true", "trainer.max_epochs=2", "trainer.limit_train_batches=3")
    )
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if request.config.getoption("--update-golden"):
        FILE.write_text(json.dumps(dict(sorted((golden | {model: actual}).items())), indent=2) + "\n")
        return
    assert model in golden, "no golden losses yet: run with --update-golden, and check that they are plausible"
    assert actual == pytest.approx(golden[model], rel=1e-6)


def test_every_model_has_golden_losses() -> None:
    assert set(json.loads(FILE.read_text())) == set(MODELS)
