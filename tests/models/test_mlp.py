"""The multi-layer perceptron against the textbook's formula and parameter count."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.activations import ACTIVATIONS
from src.models.mlp import MLP
from src.training.run import run

FORMULAS = {
    "tanh": lambda z: (np.exp(2 * z) - 1) / (np.exp(2 * z) + 1),
    "relu": lambda z: np.where(z > 0, z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "gelu": lambda z: z * norm.cdf(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.exp(z) - 1),
}


def test_every_activation_has_its_formula() -> None:
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.req("M5")
def test_run_records_and_prints_the_layers_of_the_textbook_network(
    fast: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(fast("model=mlp", "model.hidden_sizes=[128,128]", "datamodule=shapes"))
    record = json.loads((result.folder / "run.json").read_text())
    assert record["parameters"] == 411_146
    assert record["multiply_adds"] == 3072 * 128 + 128 * 128 + 128 * 10
    output = capsys.readouterr().out
    assert "411,146 parameters, 410,880 multiply-adds" in output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.startswith("layers.")}
    assert rows["layers.1"] == ["Linear", "1×128", "393,344", "393,216"]
    assert rows["layers.3"] == ["Linear", "1×128", "16,512", "16,384"]
    assert rows["layers.5"] == ["Linear", "1×10", "1,290", "1,280"]


@pytest.mark.req("M5")
def test_parameters_of_the_textbook() -> None:
    """3072-128-128-10: 393,344 + 16,512 + 1,290 = 411,146 (textbook, Parameter Efficiency Analysis)."""
    model = MLP(DataSpec("classification", "image", (3, 32, 32), (10,)), hidden_sizes=(128, 128))
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [393_344, 16_512, 1_290]
    assert sum(p.numel() for p in model.parameters()) == 411_146


@pytest.mark.req("M1")
@pytest.mark.parametrize("hidden_sizes", [(), (5,), (7, 3, 4)])
@pytest.mark.parametrize("activation", FORMULAS)
def test_forward_is_the_formula(hidden_sizes: tuple[int, ...], activation: str) -> None:
    """A_l = σ(A_{l-1} W_l + b_l), the last layer without σ."""
    torch.manual_seed(0)
    model = MLP(DataSpec("regression", "vector", (6,), (2,)), hidden_sizes, activation).double()
    x = np.random.default_rng(0).normal(size=(4, 6))
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [*hidden_sizes, 2]
    a = x
    for layer in layers:
        z = a @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        a = FORMULAS[activation](z)
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), z, rtol=0, atol=1e-12)


def test_batch_norm_is_before_and_dropout_after_each_activation() -> None:
    spec = DataSpec("classification", "vector", (6,), (3,))
    model = MLP(spec, (5, 4), "relu", batch_norm=True, dropout=0.3)
    block = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert [type(layer).__name__ for layer in model.layers] == ["Flatten", *block, *block, "Linear"]
    assert {layer.p for layer in model.layers if isinstance(layer, nn.Dropout)} == {0.3}


SERIES = DataSpec("forecasting", "sequence", (9, 3), (4, 3))


@pytest.mark.parametrize("hidden_sizes", [(), (5,)])
def test_independent_series_are_forecast_from_their_own_past_with_shared_weights(
    hidden_sizes: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    model = MLP(SERIES, hidden_sizes, "tanh", series="independent", subtract_last=True).double()
    x = np.random.default_rng(0).normal(size=(5, 9, 3))
    expected = np.empty((5, 4, 3))
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    for example in range(5):
        for series in range(3):
            last = x[example, -1, series]
            a = x[example, :, series] - last
            for layer in layers:
                z = layer.weight.detach().numpy() @ a + layer.bias.detach().numpy()
                a = np.tanh(z)
            expected[example, :, series] = z + last
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("series", ["together", "independent"])
def test_forecasts_with_subtract_last_follow_the_level(series: str) -> None:
    torch.manual_seed(0)
    model = MLP(SERIES, (5,), series=series, subtract_last=True).double()
    x, level = torch.randn(5, 9, 3).double(), torch.tensor([[[1.0, -20.0, 300.0]]]).double()
    torch.testing.assert_close(model(x + level), model(x) + level, rtol=0, atol=1e-10)


@pytest.mark.parametrize("override", ["model.series=independent", "model.subtract_last=true"])
def test_series_options_require_forecasts_of_the_input_series(override: str) -> None:
    with pytest.raises(
        UserError, match=f"{override} is for forecasting, and digits is classification. Data: mackey_glass"
    ):
        check(compose(["model=mlp", override]))
    key, _, value = override.removeprefix("model.").partition("=")
    setting: dict[str, Any] = {key: True if value == "true" else value}
    with pytest.raises(UserError, match=f"{override}: .* these data have 3 input series and 1 predicted ones"):
        MLP(DataSpec("forecasting", "sequence", (9, 3), (4, 1)), (5,), **setting)
