"""Tests of the extension: its parts train through Gridlight's Python interface, and the model computes its formula."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from mine.model import Highway
from mine.optimizer import SignSGD

from src import api
from src.core.data_spec import DataSpec

OPTIONS = ["model=highway", "optimizer=sign_sgd", "callbacks=time_limit"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train the extension's model on its data with its optimizer and callback."""
    outputs = tmp_path_factory.mktemp("outputs")
    return api.run([*OPTIONS, "trainer.max_epochs=5", "logger=none", f"paths.outputs={outputs}"], verbose=False)


def test_it_learns(result: Any) -> None:
    assert result.metrics["test/accuracy"] > 0.8


def test_the_run_is_evaluated_and_predicts_without_a_flag(result: Any) -> None:
    assert api.evaluate(result.folder)["test/accuracy"] == pytest.approx(result.metrics["test/accuracy"])
    upper, lower = api.predict(result.folder, ["0.0,1.0", "1.0,-0.5"])
    assert (upper["prediction"], lower["prediction"]) == ("upper", "lower")


def test_a_closed_gate_passes_the_input_on() -> None:
    spec = DataSpec("regression", "vector", (4,), (2,))
    model = Highway(spec, width=4, num_layers=1)
    layer = model.layers[0]
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.0] * 4 + [-100.0] * 4))
    x = torch.randn(3, 4)
    assert torch.allclose(model(x), model.last(model.first(x)))


def test_a_step_has_the_same_length_for_every_parameter() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    parameter.grad = torch.tensor([0.001, -50.0, 0.0])
    SignSGD([parameter], lr=0.1).step()
    assert torch.allclose(parameter, torch.tensor([0.9, -1.9, 3.0]))


def test_its_options_are_listed() -> None:
    command = [sys.executable, "-m", "src.train", "--help", "model=highway"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.startswith("model=highway: Highway network") and "model.num_layers" in text
