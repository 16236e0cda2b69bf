"""Which parameters decay, on models with every kind of parameter."""

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
from src.layers.recurrent_cells import GRUCell, InitialState, Layers, LSTMCell, RNNCell
from src.models.mlp import MLP
from src.models.transformer import Transformer
from src.optim.factory import build_optimizer
from src.optim.parameter_groups import parameter_groups, weight_decays
from src.training.experiment import build


def config_of(*overrides: str) -> Config:
    return check(compose(["model=mlp", *overrides]))


class Mixed(nn.Module):
    """One of each; every parameter that should decay has "decays" in its name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_decays = nn.Conv2d(1, 2, 3, bias=False)
        self.linear_decays = nn.Linear(2, 3, bias=False)
        self.lstm = nn.LSTM(2, 2)
        self.spared = nn.ModuleList(
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
        self.cells = nn.ModuleList(Layers(cell, 2, 3, bidirectional=True) for cell in (RNNCell, LSTMCell, GRUCell))
        self.own_bias = nn.Parameter(torch.zeros(2, 2))


def decaying(name: str) -> bool:
    return "decays" in name or name.startswith("lstm.weight") or ".W_" in name


@pytest.mark.req("G1")
def test_norms_biases_and_embeddings_are_spared() -> None:
    model = Mixed()
    decays = weight_decays(model, 0.1, norms_and_biases=False)
    assert {name for name, decay in decays.items() if decay} == {n for n, _ in model.named_parameters() if decaying(n)}
    assert set(decays.values()) == {0.0, 0.1}


@pytest.mark.req("G1")
def test_by_default_everything_decays_alike() -> None:
    (group,) = parameter_groups(model := Mixed(), weight_decays(model, 0.1, norms_and_biases=True))
    assert len(group["params"]) == len(list(model.parameters()))
    assert group["weight_decay"] == 0.1


@pytest.mark.req("G1")
def test_a_spared_parameter_stays_where_no_gradient_pulls() -> None:
    """λ alone moves θ by the textbook's factor (1 - ηλ), and spared parameters not at all."""
    model = Mixed()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, weight_decays(model, 0.1, norms_and_biases=False)), lr=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1) if decaying(name) else before[name]
        assert torch.allclose(parameter, expected), name


@pytest.mark.req("G1")
def test_every_layer_can_have_its_own_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    groups = parameter_groups(model, {name: float(name[0]) for name, _ in model.named_parameters()})
    assert [group["weight_decay"] for group in groups] == [0.0, 1.0, 2.0]
    assert [group["params"] for group in groups] == [list(layer.parameters()) for layer in model]


@pytest.mark.req("G1")
def test_patterns_give_layers_their_own_decay_and_the_last_that_matches_counts() -> None:
    model = MLP(DataSpec("regression", "vector", (3,), (1,)), hidden_sizes=[4, 4])
    decays = weight_decays(model, 0.1, True, {"layers.*": 0.2, "layers.[13].*": 0.3, "*.3.bias": 0.0})
    assert decays == {
        "layers.1.weight": 0.3, "layers.1.bias": 0.3, "layers.3.weight": 0.3, "layers.3.bias": 0.0,
        "layers.5.weight": 0.2, "layers.5.bias": 0.2,
    }  # fmt: skip
    spared = weight_decays(model, 0.1, False, {"layers.1.*": 0.3})
    assert spared == {name: 0.0 if "bias" in name else 0.3 if ".1." in name else 0.1 for name in decays}


@pytest.mark.req("G1")
@pytest.mark.parametrize(
    ("pattern", "sparing", "says"),
    [
        ("layer.1.weight", False, "names no parameter; * stands for anything. Did you mean 'layers.1.weight'"),
        ("layers.1", False, "names no parameter"),
        ("*.bias", True, "names only what regularization.decay_norms_and_biases=false spares"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(pattern: str, sparing: bool, message: str) -> None:
    model = MLP(DataSpec("regression", "vector", (3,), (1,)), hidden_sizes=[4])
    with pytest.raises(UserError, match=re.escape(message)):
        weight_decays(model, 0.1, not sparing, {pattern: 0.1})


def test_quotes_within_a_pattern_are_answered() -> None:
    with pytest.raises(UserError, match="keys stand without quotes"):
        config_of('regularization.weight_decay_by_layer={"layers.1.*": 0.1}')
    with pytest.raises(UserError, match=r"weight_decay_by_layer.layers.1.\*=-1: must be greater than or equal to 0"):
        config_of("regularization.weight_decay_by_layer={layers.1.*: -1}")


@pytest.mark.req("G1")
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml")))
def test_every_optimizer_decays_each_layer_as_if_it_stood_alone(name: str) -> None:
    """Three layers with λ of their own, against three optimizers with one λ each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)).double()
    alone = [deepcopy(layer) for layer in model]
    patterns = "regularization.weight_decay_by_layer={0.*: 0.1, 1.*: 0.01}"
    together = build_optimizer(model, config_of(f"optimizer={name}", patterns, "regularization.weight_decay=0.0"))
    apart = [
        build_optimizer(layer, config_of(f"optimizer={name}", f"regularization.weight_decay={decay}"))
        for layer, decay in zip(alone, (0.1, 0.01, 0.0), strict=True)
    ]
    for _ in range(20):
        for one, other in zip(model.parameters(), (p for layer in alone for p in layer.parameters()), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        together.step()
        for optimizer in apart:
            optimizer.step()
    for one, other in zip(model.parameters(), (p for layer in alone for p in layer.parameters()), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(model[0].weight, model[2].weight)


@pytest.mark.req("G1")
def test_a_run_takes_the_decay_of_its_patterns(fast: Callable[..., list[str]]) -> None:
    from src.training.run import run

    overrides = fast("model=mlp", "optimizer=sgd", "regularization.weight_decay_by_layer={layers.1.*: 0.5}")
    checkpoint = run(overrides, verbose=False).folder / "checkpoints" / "last.ckpt"
    (state,) = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    assert [(group["weight_decay"], len(group["params"])) for group in state["param_groups"]] == [(0.5, 2), (0.0, 4)]


def test_sparing_where_nothing_decays_is_said(fast: Callable[..., list[str]], caplog: pytest.LogCaptureFixture) -> None:
    for overrides, said in (("optimizer=adam", True), ("optimizer=adamw", False)):
        caplog.clear()
        config = check(compose(fast("regularization=spare_norms_and_biases", overrides)))
        build_optimizer(build(config).model, config)
        assert ("spares biases and normalisation from weight decay, and there is none" in caplog.text) == said


def test_shared_and_frozen_parameters() -> None:
    """A weight that the output shares with an embedding is taken once, as an embedding; a frozen one not at all."""
    spec = DataSpec("language_modelling", "tokens", (8,), (11,), vocabulary_size=11)
    model = Transformer(spec, d_model=8, num_heads=2, num_layers=1, d_ff=8, positions="learned")
    model.positions.table.requires_grad_(False)
    groups = parameter_groups(model, weight_decays(model, 0.1, norms_and_biases=False))
    where = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert where[id(model.output.weight)] == 0.0
    assert id(model.positions.table) not in where
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
