"""Weight initialisation by name (textbook, Weight Initialization)."""

from collections.abc import Callable
from math import sqrt

from torch import Tensor, nn

from src.core.errors import UserError, nearest


def _textbook(weight: Tensor) -> None:
    """N(0, 1/n_in), the textbook's "Xavier"."""
    nn.init.normal_(weight, std=1 / sqrt(weight[0].numel()))


INITIALIZATIONS: dict[str, Callable[[Tensor], object] | None] = {
    "torch": None,
    "textbook": _textbook,
    "glorot": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_normal_,
}


def initialize(module: nn.Module, name: str) -> None:
    """Fill the weights of linear and convolutional layers, and set their biases to zero.

    Args:
        module: the network.
        name: ``textbook`` N(0, 1/n_in), ``glorot`` (uniform), ``he`` (normal), or ``torch``, which changes nothing.
    """
    if name not in INITIALIZATIONS:
        raise UserError(f"initialization '{name}' is unknown. {nearest(name, INITIALIZATIONS)}")
    fill = INITIALIZATIONS[name]
    if fill is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
