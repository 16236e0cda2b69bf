"""All kinds of dropout: the rate, the unchanged expectation, and no effect in evaluation.

A mean over N independent samples of variance σ² differs from its expectation by less than 5 σ/√N, except in one case in
1.7 million; each bound below states its σ.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.layers.dropout import DropConnect, StochasticDepth, drop_state_weights
from src.layers.transformer_blocks import Stack
from src.models.mlp import MLP
from src.models.recurrent import LSTM
from src.models.resnet import ResidualBlock, ResNet
from src.training.build import build_data, build_model

DRAWS = 20_000
RATES = [0.1, 0.5, 0.8]
IMAGES = DataSpec("classification", "image", (1, 8, 8), (5,))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def inverted_bernoulli_std(drop: float) -> float:
    """Return σ of a factor that is 1/(1 - p) with probability 1 - p, otherwise 0: its variance is p/(1 - p)."""
    return sqrt(drop / (1 - drop))


def model_of(*overrides: str) -> Any:
    config = check(compose([*overrides]))
    return build_model(config, build_data(config).spec)


# ---- units and maps: torch's layers, where the configs put them ----------------------------------------------------


@pytest.mark.req("G2")
@pytest.mark.parametrize("drop", RATES)
def test_dropout_is_inverted_and_its_parameter_is_the_probability_to_drop(drop: float) -> None:
    """Erratum E6: a/(1 - p) with probability 1 - p, otherwise 0, as in the textbook with the other p."""
    layers = model_of("model=mlp", f"regularization.dropout={drop}").layers
    dropouts = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    assert len(dropouts) == 2, "after each hidden layer and not after the output"
    activations = torch.rand(10, dtype=torch.float64) + 0.5
    factors = dropouts[0].train()(activations.expand(DRAWS, 10)) / activations
    nonzero = factors > 0
    torch.testing.assert_close(factors[nonzero], torch.full_like(factors[nonzero], 1 / (1 - drop)))
    assert abs(nonzero.double().mean() - (1 - drop)) < 5 * sqrt(drop * (1 - drop) / nonzero.numel())
    assert ((factors.mean(0) - 1).abs() < 5 * inverted_bernoulli_std(drop) / sqrt(DRAWS)).all()


@pytest.mark.req("G2")
@pytest.mark.parametrize("drop", RATES)
def test_spatial_dropout_drops_whole_maps(drop: float) -> None:
    features = model_of("model=cnn", f"regularization.spatial_dropout={drop}").features
    spatial = [layer for layer in features.modules() if isinstance(layer, nn.Dropout2d)]
    assert len(spatial) == 2, "one per block"
    maps = torch.rand(1, 4, 2, 3, dtype=torch.float64) + 0.5
    factors = spatial[0].train()(maps.expand(DRAWS // 4, 4, 2, 3)) / maps
    assert torch.equal(factors, factors[..., :1, :1].expand_as(factors)), "one factor for a whole map"
    map_factors = factors[..., 0, 0].flatten()
    assert map_factors.unique().tolist() == pytest.approx([0, 1 / (1 - drop)], rel=1e-12)
    assert abs(map_factors.mean() - 1) < 5 * inverted_bernoulli_std(drop) / sqrt(map_factors.numel())


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("G2")
@pytest.mark.parametrize("drop", RATES)
def test_dropconnect_drops_weights_and_preserves_the_expected_output(drop: float) -> None:
    """y_i = b_i + Σ_j m_ij w_ij x_j / (1 - p): its mean is W x + b, its variance p/(1 - p) Σ_j (w_ij x_j)²."""
    layer = DropConnect(6, 4, drop).double()
    x = torch.randn(1, 6, dtype=torch.float64)
    draws = torch.stack([layer(x)[0] for _ in range(DRAWS)]).detach()
    products = layer.weight * x
    expected = (products.sum(1) + layer.bias).detach()
    std = inverted_bernoulli_std(drop) * products.square().sum(1).sqrt().detach()
    assert ((draws.mean(0) - expected).abs() < 5 * std / sqrt(DRAWS)).all()
    assert draws.var(0).tolist() == pytest.approx(std.square().tolist(), rel=0.1)


@pytest.mark.req("G2")
def test_the_expected_output_of_dropconnect_is_exact() -> None:
    """The mean over all 2^6 masks, weighted by their probabilities, is the output without dropout."""
    drop, layer, x = 0.3, DropConnect(3, 2, 0.3).double(), torch.randn(5, 3, dtype=torch.float64)
    mean = torch.zeros(5, 2, dtype=torch.float64)
    for number in range(2**6):
        mask = torch.tensor([float(number >> bit & 1) for bit in range(6)], dtype=torch.float64).reshape(2, 3)
        probability = float((mask * (1 - drop) + (1 - mask) * drop).prod())
        mean += probability * F.linear(x, mask * layer.weight / (1 - drop), layer.bias)
    torch.testing.assert_close(mean, layer.eval()(x), rtol=1e-13, atol=1e-13)


@pytest.mark.req("G2")
def test_dropconnect_drops_weights_independently_and_never_a_bias() -> None:
    layer = DropConnect(40, 50, 0.4)
    layer(torch.eye(40)).sum().backward()  # each weight's gradient is its factor
    factors = layer.weight.grad
    assert factors is not None and layer.bias.grad is not None
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.6])
    for share in ((factors > 0).float().mean(0), (factors > 0).float().mean(1)):
        assert (abs(share - 0.6) < 5 * sqrt(0.24 / 40)).all(), "no whole row or column"
    assert torch.equal(layer.bias.grad, torch.full((50,), 40.0))


@pytest.mark.req("G2")
def test_dropconnect_is_in_hidden_layers_and_not_in_the_output() -> None:
    for override, layers in (("model=mlp", "layers"), ("model=cnn", "head")):
        model = model_of(override, "regularization=drop_connect")
        linear = [layer for layer in getattr(model, layers) if isinstance(layer, nn.Linear)]
        assert [isinstance(layer, DropConnect) for layer in linear] == [True] * (len(linear) - 1) + [False]
        plain = model_of(override)
        assert list(plain.state_dict()) == list(model.state_dict()), "the same weights under the same names"


@pytest.mark.req("G2")
@pytest.mark.parametrize("core", [nn.RNN, nn.LSTM, nn.GRU])
def test_state_weights_are_dropped_for_a_whole_sequence(core: type[nn.RNNBase]) -> None:
    recurrent = core(3, 5, num_layers=2, batch_first=True, bidirectional=True).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    whole = recurrent(x)[0]
    torch.manual_seed(1)
    dropped = drop_state_weights(recurrent, 0.5, x)[0]
    torch.manual_seed(1)
    reference = core(3, 5, num_layers=2, batch_first=True, bidirectional=True).double()
    torch.manual_seed(1)
    state = {
        name: F.dropout(value, 0.5) if name.startswith("weight_hh") else value
        for name, value in recurrent.state_dict().items()
    }
    reference.load_state_dict(state)
    torch.testing.assert_close(dropped, reference(x)[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(dropped, whole)
    assert torch.equal(recurrent(x)[0], whole), "the weights are unchanged afterwards"
    dropped.sum().backward()
    gradient = recurrent.weight_hh_l0.grad
    assert gradient is not None and ((gradient == 0) == (state["weight_hh_l0"] == 0)).all(), (
        "only weights that are not dropped get gradients"
    )


def test_recurrent_model_drops_hidden_to_hidden_weights_in_training() -> None:
    model = LSTM(DataSpec("regression", "sequence", (6, 3), (1,)), hidden_size=5, drop_connect=0.5)
    x = torch.randn(4, 6, 3)
    assert not torch.equal(model(x), model(x))
    first = model(x[:, :1])
    assert torch.equal(first, model(x[:, :1])), "the first step depends on the input alone"


# ---- branches --------------------------------------------------------------------------------------------------------


@pytest.mark.req("G2")
@pytest.mark.parametrize("drop", RATES)
def test_stochastic_depth_drops_whole_examples_and_preserves_the_mean(drop: float) -> None:
    branch = torch.randn(1, 3, 2, dtype=torch.float64).expand(DRAWS, 3, 2)
    out = StochasticDepth(drop)(branch)
    scale = (out / branch).flatten(1)
    assert torch.equal(scale, scale[:, :1].expand_as(scale))  # one factor for a whole example
    nonzero = scale[:, 0] > 0
    expected = torch.full((int(nonzero.sum()),), 1 / (1 - drop), dtype=torch.float64)
    torch.testing.assert_close(scale[nonzero, 0], expected)
    assert abs(nonzero.double().mean() - (1 - drop)) < 5 * sqrt(drop * (1 - drop) / DRAWS)
    assert abs(scale[:, 0].mean() - 1) < 5 * inverted_bernoulli_std(drop) / sqrt(DRAWS)


@pytest.mark.req("G2")
def test_stochastic_depth_grows_linearly_with_depth() -> None:
    model = ResNet(IMAGES, blocks_per_stage=2, stochastic_depth=0.6)
    drops = [block.drop.drop for block in model.blocks if isinstance(block, ResidualBlock)]
    assert drops == pytest.approx([0.6 * number / 6 for number in range(1, 7)])
    stack = Stack(3, 8, norm_first=False, num_heads=2, d_ff=8, dropout=0.0, activation="relu", cross=False,
                  stochastic_depth=0.6)  # fmt: skip
    assert [block.skip.drop for block in stack.blocks] == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.req("G2")
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_skips_sublayers_independently_for_each_example(norm_first: bool) -> None:
    """One block of attention and feed-forward network: each is scaled by 2 or skipped; the four outcomes are equally likely."""
    settings = {"num_heads": 2, "d_ff": 8, "dropout": 0.0, "activation": "relu", "cross": False}
    stack = Stack(1, 8, norm_first=norm_first, stochastic_depth=0.5, **settings)
    block = stack.blocks[0]
    x = torch.randn(1, 3, 8)
    attention, feed = block.attention, block.feed_forward
    a_norm, f_norm = block.attention_norm, block.feed_forward_norm
    outcomes = []
    for first in (0, 2):
        for second in (0, 2):
            if norm_first:
                y = x + first * attention(a_norm(x))
                y = stack.norm(y + second * feed(f_norm(y)))
            else:
                y = a_norm(x + first * attention(x))
                y = f_norm(y + second * feed(y))
            outcomes.append(y[0])
    outputs = stack(x.expand(4000, -1, -1))
    distances = torch.stack([(outputs - outcome).abs().amax((1, 2)) for outcome in outcomes])
    assert distances.amin(0).max() < 1e-5
    counts = torch.bincount(distances.argmin(0), minlength=4)
    assert (abs(counts - 1000) < 5 * sqrt(4000 * 0.25 * 0.75)).all()


# ---- all kinds of dropout --------------------------------------------------------------------------------------------

DROPOUT_KNOBS = [
    ("mlp", "dropout"),
    ("mlp", "drop_connect"),
    ("cnn", "dropout"),
    ("cnn", "drop_connect"),
    ("cnn", "spatial_dropout"),
    ("resnet", "dropout"),
    ("resnet", "stochastic_depth"),
    ("rnn", "drop_connect"),
    ("lstm", "dropout"),
    ("gru", "drop_connect"),
    ("transformer", "dropout"),
    ("transformer", "stochastic_depth"),
]


@pytest.mark.req("G2")
@pytest.mark.parametrize(("name", "knob"), DROPOUT_KNOBS)
def test_evaluation_drops_nothing_and_training_does(name: str, knob: str) -> None:
    overrides = [f"model={name}", "datamodule=digits", "regularization=none"]
    with_drop, without = model_of(*overrides, f"regularization.{knob}=0.5"), model_of(*overrides)
    for mine, other in zip(with_drop.state_dict().values(), without.state_dict().values(), strict=True):
        mine.copy_(other)  # dropout layers may change the parameter names
    x = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(with_drop.eval()(x), without.eval()(x))
        assert not torch.equal(with_drop.train()(x), with_drop.train()(x))


@pytest.mark.req("G2")
@pytest.mark.parametrize(
    "layer",
    [lambda p: nn.Dropout(p), lambda p: nn.Dropout2d(p), lambda p: StochasticDepth(p), lambda p: DropConnect(3, 3, p)],
)
def test_probability_0_drops_nothing(layer: Callable[[float], nn.Module]) -> None:
    module, x = layer(0.0), torch.randn(2, 4, 3, 3)
    reference: Tensor = F.linear(x, module.weight, module.bias) if isinstance(module, DropConnect) else x
    assert torch.equal(module.train()(x), reference)


def test_model_without_dropout_uses_no_random_numbers() -> None:
    model = MLP(IMAGES, drop_connect=0.0, dropout=0.0)
    before = torch.get_rng_state()
    model(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
