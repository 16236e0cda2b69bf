"""Activations by name."""

from torch import nn

from src.core.errors import UserError, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}


def make_activation(name: str) -> nn.Module:
    """Return a new activation module.

    Raises:
        UserError: if there is no activation of this name.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation '{name}' is unknown. {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()
