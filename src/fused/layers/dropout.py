"""Dropout with rates that are tensors, so that they can differ between members."""

import torch
from torch import Tensor, nn

from src.fused.layers.linear import linear
from src.layers.dropout import DropConnect, StochasticDepth

MIN_KEEP_PROBABILITY = 1e-12
"""Lower bound of the divisor, for a dropout rate of 1."""


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: Tensor) -> Tensor:
    """Return a mask: 0 for dropped elements, 1 / (1 - rate) for the others.

    Args:
        like: tensor with the dtype and device of the mask.
        shape: shape of the mask.
        rate: dropout probability [].
    """
    keep_probability = 1 - rate
    drawn = torch.rand(shape, dtype=like.dtype, device=like.device)
    return (drawn < keep_probability).to(like.dtype) / keep_probability.clamp(min=MIN_KEEP_PROBABILITY)


class HasDropoutRate(nn.Module):
    """Module with a dropout rate that is a tensor []; `has_dropout` is whether the rate of any member is above 0."""

    rate: Tensor
    has_dropout = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)


class MemberDropout(HasDropoutRate):
    """``nn.Dropout`` with a rate that is a tensor.

    Args:
        dimensions: number of leading dimensions of x whose elements are dropped independently; each element is dropped as a
            whole. None: all dimensions.
    """

    def __init__(self, dimensions: int | None = None) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        count = x.dim() if self.dimensions is None else self.dimensions
        return x * dropout_mask(x, (*x.shape[:count], *[1] * (x.dim() - count)), self.rate)


class MemberDropConnect(HasDropoutRate):
    """`DropConnect` with a rate that is a tensor, on the parameters of a given layer."""

    def __init__(self, layer: DropConnect) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.training:
            weight = weight * dropout_mask(weight, tuple(weight.shape), self.rate)
        return linear(x, weight, self.bias)


def member_dropout(module: nn.Module) -> HasDropoutRate:
    """Return the module with a tensor as its rate that replaces a dropout module.

    Raises:
        ValueError: if fused training does not support the module.
    """
    if isinstance(module, DropConnect):
        return MemberDropConnect(module)
    if isinstance(module, StochasticDepth):
        return MemberDropout(1)
    if type(module) is nn.Dropout2d:
        return MemberDropout(2)
    if type(module) is not nn.Dropout:
        raise ValueError(f"{type(module).__name__} is not supported in fused training (src/fused/layers/dropout.py)")
    return MemberDropout()
