"""Activations against their formulas."""

from collections.abc import Callable
from math import erf, exp, sqrt, tanh

import pytest
import torch

from src.core.errors import UserError
from src.layers.activations import ACTIVATIONS, make_activation

FORMULAS: dict[str, Callable[[float], float]] = {
    "tanh": tanh,
    "relu": lambda x: max(0.0, x),
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "silu": lambda x: x / (1 + exp(-x)),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else exp(x) - 1,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_its_formula(name: str) -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make_activation(name)(x), expected, rtol=1e-12, atol=1e-12)


def test_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'rellu'.*Did you mean 'relu'\? Possible: elu, gelu"):
        make_activation("rellu")
