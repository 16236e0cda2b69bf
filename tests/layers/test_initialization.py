"""Initial weights against the distributions of their initializations."""

from math import sqrt
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from src.core.errors import UserError
from src.layers.initialization import initialize

FANS = {"linear": (100, 150), "convolution": (8 * 9, 180 * 9)}  # fan-in and fan-out


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"linear": nn.Linear(100, 150), "convolution": nn.Conv2d(8, 180, 3)})


def distribution(name: str, fan_in: int, fan_out: int) -> tuple[str, tuple[float, float]]:
    """Return the name and the parameters of a distribution in scipy."""
    bound = sqrt(6 / (fan_in + fan_out))
    return {
        "textbook": ("norm", (0.0, 1 / sqrt(fan_in))),
        "glorot": ("uniform", (-bound, 2 * bound)),
        "he": ("norm", (0.0, sqrt(2 / fan_in))),
    }[name]


@pytest.mark.req("M4")
@pytest.mark.parametrize("layer", FANS)
@pytest.mark.parametrize("name", ["textbook", "glorot", "he"])
def test_weights_follow_their_distribution(name: str, layer: str) -> None:
    net = network()
    initialize(net, name)
    filled: Any = net[layer]
    weights = filled.weight.detach().flatten()
    family, arguments = distribution(name, *FANS[layer])
    assert kstest(weights.double().numpy(), family, arguments).pvalue > 1e-3
    assert kstest(weights.double().numpy() * 1.1, family, arguments).pvalue < 1e-3  # the test would notice 10 %
    assert not filled.bias.any()


@pytest.mark.req("M4")
def test_torch_initialization_changes_nothing() -> None:
    net, untouched = network(), network()
    initialize(net, "torch")
    for mine, theirs in zip(net.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_unknown_initialization_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'glorott'.*Did you mean 'glorot'\?"):
        initialize(network(), "glorott")
