"""The weight decay of each parameter, on models with every kind of parameter."""

import re
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from src import ROOT
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.positional_encoding import LearnedPositions
from src.layers.recurrent_cells import GRUCell, InitialState, LSTMCell, RecurrentLayers, RNNCell
from src.models.mlp import MLP
from src.models.transformer import Transformer
from src.optim.factory import build_optimizer
from src.optim.parameter_groups import parameter_groups, weight_decays
from src.training.experiment import build


def config_of(*overrides: str) -> Config:
    return check(compose(["model=mlp", *overrides]))


class Mixed(nn.Module):
    """One of each kind; modules whose parameters should decay have "decays" in their name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_decays = nn.Conv2d(1, 2, 3, bias=False)
        self.linear_decays = nn.Linear(2, 3, bias=False)
        self.lstm = nn.LSTM(2, 2)
        self.no_decay = nn.ModuleList(
            [
                nn.BatchNorm2d(2),
                nn.GroupNorm(1, 2),
                nn.LayerNorm([2, 3]),  # its weight is a matrix
                nn.RMSNorm(4),
                nn.InstanceNorm1d(2, affine=True),
                nn.Embedding(5, 2),
                nn.EmbeddingBag(5, 2),
                LearnedPositions(4, 3),
                InitialState(2, 3, 2),
            ]
        )
        self.cells = nn.ModuleList(
            RecurrentLayers(cell, 2, 3, bidirectional=True) for cell in (RNNCell, LSTMCell, GRUCell)
        )
        self.own_bias = nn.Parameter(torch.zeros(2, 2))


def should_decay(name: str) -> bool:
    return "decays" in name or name.startswith("lstm.weight") or ".W_" in name


@pytest.mark.req("G1")
def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = Mixed()
    decays = weight_decays(model, 0.1, norms_and_biases=False)
    assert {name for name, decay in decays.items() if decay} == {
        n for n, _ in model.named_parameters() if should_decay(n)
    }
    assert set(decays.values()) == {0.0, 0.1}


@pytest.mark.req("G1")
def test_by_default_all_parameters_decay_equally() -> None:
    (group,) = parameter_groups(model := Mixed(), weight_decays(model, 0.1, norms_and_biases=True))
    assert len(group["params"]) == len(list(model.parameters()))
    assert group["weight_decay"] == 0.1


@pytest.mark.req("G1")
def test_parameter_without_decay_and_gradient_does_not_change() -> None:
    """Without a gradient, λ multiplies θ by the textbook's (1 - ηλ), and parameters without decay do not change."""
    model = Mixed()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, weight_decays(model, 0.1, norms_and_biases=False)), lr=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1) if should_decay(name) else before[name]
        assert torch.allclose(parameter, expected), name


@pytest.mark.req("G1")
def test_each_layer_can_have_its_own_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    groups = parameter_groups(model, {name: float(name[0]) for name, _ in model.named_parameters()})
    assert [group["weight_decay"] for group in groups] == [0.0, 1.0, 2.0]
    assert [group["params"] for group in groups] == [list(layer.parameters()) for layer in model]


@pytest.mark.req("G1")
def test_last_matching_pattern_sets_the_decay() -> None:
    model = MLP(DataSpec("regression", "vector", (3,), (1,)), hidden_sizes=[4, 4])
    decays = weight_decays(model, 0.1, True, {"layers.*": 0.2, "layers.[13].*": 0.3, "*.3.bias": 0.0})
    assert decays == {
        "layers.1.weight": 0.3, "layers.1.bias": 0.3, "layers.3.weight": 0.3, "layers.3.bias": 0.0,
        "layers.5.weight": 0.2, "layers.5.bias": 0.2,
    }  # fmt: skip
    without_biases = weight_decays(model, 0.1, False, {"layers.1.*": 0.3})
    assert without_biases == {name: 0.0 if "bias" in name else 0.3 if ".1." in name else 0.1 for name in decays}


@pytest.mark.req("G1")
@pytest.mark.parametrize(
    ("pattern", "excluding", "message"),
    [
        ("layer.1.weight", False, "matches no parameter; * matches any text. Did you mean 'layers.1.weight'"),
        ("layers.1", False, "matches no parameter"),
        ("*.bias", True, "matches only parameters that regularization.decay_norms_and_biases=false excludes"),
    ],
)
def test_pattern_without_match_is_rejected(pattern: str, excluding: bool, message: str) -> None:
    model = MLP(DataSpec("regression", "vector", (3,), (1,)), hidden_sizes=[4])
    with pytest.raises(UserError, match=re.escape(message)):
        weight_decays(model, 0.1, not excluding, {pattern: 0.1})


def test_quoted_pattern_is_rejected_with_a_hint() -> None:
    with pytest.raises(UserError, match="without quotes"):
        config_of('regularization.weight_decay_by_layer={"layers.1.*": 0.1}')
    with pytest.raises(UserError, match=r"weight_decay_by_layer.layers.1.\*=-1: must be greater than or equal to 0"):
        config_of("regularization.weight_decay_by_layer={layers.1.*: -1}")


@pytest.mark.req("G1")
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml")))
def test_optimizer_with_patterns_equals_one_optimizer_per_layer(name: str) -> None:
    """One optimizer of three layers with different λ equals three optimizers with one λ each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)).double()
    copies = [deepcopy(layer) for layer in model]
    patterns = "regularization.weight_decay_by_layer={0.*: 0.1, 1.*: 0.01}"
    combined = build_optimizer(model, config_of(f"optimizer={name}", patterns, "regularization.weight_decay=0.0"))
    separate = [
        build_optimizer(layer, config_of(f"optimizer={name}", f"regularization.weight_decay={decay}"))
        for layer, decay in zip(copies, (0.1, 0.01, 0.0), strict=True)
    ]
    for _ in range(20):
        for one, other in zip(model.parameters(), (p for layer in copies for p in layer.parameters()), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        combined.step()
        for optimizer in separate:
            optimizer.step()
    for one, other in zip(model.parameters(), (p for layer in copies for p in layer.parameters()), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(model[0].weight, model[2].weight)


@pytest.mark.req("G1")
def test_run_uses_the_decay_of_its_patterns(fast: Callable[..., list[str]]) -> None:
    from src.training.run import run

    overrides = fast("model=mlp", "optimizer=sgd", "regularization.weight_decay_by_layer={layers.1.*: 0.5}")
    checkpoint = run(overrides, verbose=False).folder / "checkpoints" / "last.ckpt"
    (state,) = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    assert [(group["weight_decay"], len(group["params"])) for group in state["param_groups"]] == [(0.5, 2), (0.0, 4)]


def test_excluding_parameters_without_any_decay_logs_a_warning(
    fast: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    for override, warned in (("optimizer=adam", True), ("optimizer=adamw", False)):
        caplog.clear()
        config = check(compose(fast("regularization=spare_norms_and_biases", override)))
        build_optimizer(build(config).model, config)
        message = "excludes biases and normalisation from weight decay, and there is none"
        assert (message in caplog.text) == warned


def test_shared_and_frozen_parameters() -> None:
    """A weight that the output shares with an embedding is in one group, as an embedding; a frozen one is in none."""
    spec = DataSpec("language_modelling", "tokens", (8,), (11,), vocabulary_size=11)
    model = Transformer(spec, d_model=8, num_heads=2, num_layers=1, d_ff=8, positions="learned")
    model.positions.table.requires_grad_(False)
    groups = parameter_groups(model, weight_decays(model, 0.1, norms_and_biases=False))
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay_of[id(model.output.weight)] == 0.0
    assert id(model.positions.table) not in decay_of
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
