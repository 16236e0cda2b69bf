"""Which parameters decay, on models with every kind of parameter."""

import pytest
import torch
from torch import nn

from src.layers.positions import LearnedPositions
from src.models.transformer import Transformer
from src.optim.groups import parameter_groups, weight_decays
from src.spec import DataSpec


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
            ]
        )
        self.own_bias = nn.Parameter(torch.zeros(2, 2))


def decaying(name: str) -> bool:
    return "decays" in name or name.startswith("lstm.weight")


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
