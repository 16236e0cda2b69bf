"""Dropping with rates that are tensors, so that they differ from member to member (`src.layers.dropout`, and torch's)."""

import torch
from torch import Tensor, nn

from src.fused.layers.linear import linear
from src.layers.dropout import DropConnect, StochasticDepth

TINY = 1e-12
"""What stands for a share of 0 that is kept, so that it divides."""


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: Tensor) -> Tensor:
    """Return 0 where something is dropped, and elsewhere 1 / (1 - rate).

    Args:
        like: gives device and kind of number.
        shape: of what is drawn.
        rate: probability to drop [].
    """
    keep_probability = 1 - rate
    drawn = torch.rand(shape, dtype=like.dtype, device=like.device)
    return (drawn < keep_probability).to(like.dtype) / keep_probability.clamp(min=TINY)


class HasDropoutRate(nn.Module):
    """Drops with a rate that is a tensor [], if any member drops."""

    rate: Tensor
    has_dropout = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)


class MemberDropout(HasDropoutRate):
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
        return x * dropout_mask(x, (*x.shape[:each], *[1] * (x.dim() - each)), self.rate)


class MemberDropConnect(HasDropoutRate):
    """As `DropConnect`, whose parameters it has."""

    def __init__(self, layer: DropConnect) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.training:
            weight = weight * dropout_mask(weight, tuple(weight.shape), self.rate)
        return linear(x, weight, self.bias)


def member_dropout(module: nn.Module) -> HasDropoutRate:
    """Return what does the same as a module that drops, with a rate that is a tensor.

    Raises:
        ValueError: if there is nothing that does.
    """
    if isinstance(module, DropConnect):
        return MemberDropConnect(module)
    if isinstance(module, StochasticDepth):
        return MemberDropout(1)
    if type(module) is nn.Dropout2d:
        return MemberDropout(2)
    if type(module) is not nn.Dropout:
        raise ValueError(f"{type(module).__name__} has no form for several members in src/fused/layers/dropout.py")
    return MemberDropout()
