"""Dropping with rates that are tensors, so that they differ from member to member (`src.layers.dropout`, and torch's)."""

import torch
from torch import Tensor, nn

from src.fused.layers.linear import linear
from src.layers.dropout import DropConnect, StochasticDepth

TINY = 1e-12
"""What stands for a share of 0 that is kept, so that it divides."""


def kept(like: Tensor, shape: tuple[int, ...], rate: Tensor) -> Tensor:
    """Return 0 where something is dropped, and elsewhere 1 / (1 - rate).

    Args:
        like: gives device and kind of number.
        shape: of what is drawn.
        rate: probability to drop [].
    """
    keep = 1 - rate
    drawn = torch.rand(shape, dtype=like.dtype, device=like.device)
    return (drawn < keep).to(like.dtype) / keep.clamp(min=TINY)


class Rated(nn.Module):
    """Drops with a rate that is a tensor [], if any member drops."""

    rate: Tensor
    drops = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)


class RatedDropout(Rated):
    """As ``nn.Dropout``.

    Args:
        dimensions: of x, in front, that are dropped each on its own; the others as a whole. None: all.
    """

    def __init__(self, dimensions: int | None = None) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        each = x.dim() if self.dimensions is None else self.dimensions
        return x * kept(x, (*x.shape[:each], *[1] * (x.dim() - each)), self.rate)


class RatedDropConnect(Rated):
    """As `DropConnect`, whose parameters it has."""

    def __init__(self, layer: DropConnect) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.training:
            weight = weight * kept(weight, tuple(weight.shape), self.rate)
        return linear(x, weight, self.bias)


def rated(module: nn.Module) -> Rated:
    """Return what does the same as a module that drops, with a rate that is a tensor.

    Raises:
        ValueError: if there is nothing that does.
    """
    if isinstance(module, DropConnect):
        return RatedDropConnect(module)
    if isinstance(module, StochasticDepth):
        return RatedDropout(1)
    if type(module) is nn.Dropout2d:
        return RatedDropout(2)
    if type(module) is not nn.Dropout:
        raise ValueError(f"{type(module).__name__} has no form for several members in src/fused/layers/dropout.py")
    return RatedDropout()
