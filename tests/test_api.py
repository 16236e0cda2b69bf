"""The public Python interface accepts texts and paths, and reports wrong arguments."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src import api
from src.training.result import RunResult
from tests.conftest import ROOT

OVERRIDES = ["model=mlp", "datamodule=breast_cancer", "trainer=cpu", "trainer.max_epochs=1", "logger=none"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return api.run(OVERRIDES, tmp_path_factory.mktemp("api") / "run", verbose=False)


def test_a_run_is_trained_loaded_evaluated_and_compared(result: RunResult) -> None:
    assert result.status == "finished"
    loaded = api.load(str(result.folder))
    x = loaded.datamodule.split("test")
    assert torch.isfinite(loaded.model(x.inputs[0])).all()
    metrics = api.evaluate(str(result.folder))
    assert metrics["test/loss"] == pytest.approx(result.metrics["test/loss"], rel=1e-5)
    (view,) = api.compare(str(result.folder))
    assert view.rows[0].best.value == pytest.approx(result.value)
    assert view.metric == result.monitor


@pytest.mark.parametrize("kind", [str, Path, "loaded"])
def test_predictions_of_texts_and_of_arrays_are_the_same(result: RunResult, kind: Any) -> None:
    model = api.load(result.folder) if kind == "loaded" else kind(result.folder)
    rows = np.random.default_rng(0).uniform(1, 20, (3, 30))
    texts = [",".join(map(repr, row.tolist())) for row in rows]
    of_texts = api.predict(model, texts)
    for inputs in (rows, rows.tolist(), torch.from_numpy(rows)):
        assert api.predict(model, inputs) == of_texts
    assert api.predict(model, rows[0]) == api.predict(model, texts[0])


def test_a_text_of_overrides_is_split_like_a_command_line(tmp_path: Path) -> None:
    text = " ".join(OVERRIDES) + " notes='two words'"
    result = api.run(text, str(tmp_path / "run"), verbose=False)
    assert json.loads((result.folder / "run.json").read_text())["status"] == "finished"
    assert "two words" in (result.folder / "config.yaml").read_text()
    resumed = api.resume(str(result.folder), "trainer.max_epochs=2", verbose=False)
    assert resumed.folder == result.folder and resumed.status == "finished"


WRONG: list[tuple[str, Callable[[], object], str]] = [
    ("a number of overrides", lambda: api.run(3), "expected texts"),  # type: ignore[arg-type]
    ("a dictionary", lambda: api.run({"model": "mlp"}), "expected texts"),  # type: ignore[arg-type]
    ("a number among them", lambda: api.run(["model=mlp", 3]), "expected texts"),  # type: ignore[list-item]
    ("an open quote", lambda: api.run("notes='open"), "quot"),
    ("an unknown model", lambda: api.run("model=mlpp"), "mlp"),
    ("no path", lambda: api.load(None), "expected a path"),  # type: ignore[arg-type]
    ("no run", lambda: api.load("nowhere"), "nowhere"),
    ("no model", lambda: api.predict(3, ["1,2"]), "expected a run folder"),  # type: ignore[arg-type]
    ("no folder", lambda: api.compare(), "at least one folder"),
    ("a folder without runs", lambda: api.compare("nowhere"), "nowhere"),
    ("no run to resume", lambda: api.resume("nowhere"), "nowhere"),
    ("no such run to evaluate", lambda: api.evaluate("nowhere"), "nowhere"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_argument_is_reported(call: Callable[[], object], message: str) -> None:
    with pytest.raises(api.UserError, match=message):
        call()


@pytest.mark.parametrize("inputs", [None, [], 3, {"a": 1}, [[[1.0]]], [[1.0], "text"], [True]])
def test_wrong_inputs_are_reported(result: RunResult, inputs: Any) -> None:
    with pytest.raises(api.UserError, match="expected texts, paths, or numbers"):
        api.predict(result.folder, inputs)


def test_an_unknown_option_of_generation_is_reported(result: RunResult) -> None:
    with pytest.raises(api.UserError, match="temperature"):
        api.predict(result.folder, ["1"], temperatur=1.0)


def test_a_split_is_reported_with_the_nearest(result: RunResult) -> None:
    with pytest.raises(api.UserError, match="test"):
        api.evaluate(result.folder, "tets")


def test_a_sweep_returns_its_ranking(tmp_path: Path) -> None:
    overrides = [*OVERRIDES, "optimizer.lr=1e-3,1e-2", f"paths.outputs={tmp_path}"]
    (view,) = api.sweep(overrides, "lr")
    assert [row.rank for row in view.rows] == [1, 2]
    assert {row.value("optimizer.lr") for row in view.rows} == {1e-3, 1e-2}
    with pytest.raises(api.UserError):
        api.sweep([*OVERRIDES, "model=mlpp,cnn", f"paths.outputs={tmp_path}"], "wrong")


def test_importing_it_loads_no_torch() -> None:
    program = "import sys, src.api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
