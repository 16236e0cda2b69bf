"""Networks that take the examples of all members as one batch [K · B, …], ordered by member.

Layers without parameters treat each example independently and stay as they are; a step needs no vmap.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from src.fused.layers.dropout import HasDropoutRate, MemberDropConnect, dropout_mask
from src.fused.layers.linear import MemberLinear, batched_linear
from src.layers.activations import ACTIVATIONS
from src.layers.dropout import DropConnect
from src.models.base import Model
from src.models.mlp import MLP

FOLDABLE_MODELS: tuple[type[Model], ...] = (MLP,)
"""Models whose `forward` treats each example independently if its modules do."""
PARAMETER_FREE = (nn.Sequential, nn.Flatten, nn.Identity, *ACTIVATIONS.values())
"""Modules without parameters and buffers that treat each example independently."""


def can_fold(model: Model) -> bool:
    """Return whether a model can take the examples of all members as one batch."""
    return type(model) in FOLDABLE_MODELS and all(
        module is model or type(module) in PARAMETER_FREE or folded_module(module) is not None
        for module in model.modules()
    )


def folded_module(module: nn.Module) -> nn.Module | None:
    """Return the module that replaces a given one for examples of all members in one batch; None if it needs or has none."""
    if type(module) is nn.Linear:
        return FoldedLinear(module)
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats and module.momentum is not None:
        return FoldedBatchNorm(module)
    if type(module) is DropConnect:
        return FoldedDropConnect(module)
    return FoldedDropout() if type(module) is nn.Dropout else None


class FoldedLinear(MemberLinear):
    """``nn.Linear`` with parameters of all members."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [K · B, width_in] to [K · B, width_out]."""
        return batched_linear(_split_members(x, self.weight), self.weight, self.bias).flatten(0, 1)


class FoldedDropConnect(MemberDropConnect):
    """`DropConnect` with parameters of all members."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.training and self.has_dropout:
            weight = weight * dropout_mask(weight, tuple(weight.shape), self.rate.view(-1, 1, 1))
        return batched_linear(_split_members(x, weight), weight, self.bias).flatten(0, 1)


class FoldedDropout(HasDropoutRate):
    """``nn.Dropout`` with a rate of each member."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.has_dropout):
            return x
        members = _split_members(x, self.rate)
        rate = self.rate.view(-1, *[1] * x.dim())
        return (members * dropout_mask(members, tuple(members.shape), rate)).flatten(0, 1)


class FoldedBatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the features of all members as one feature dimension.

    Args:
        layer: the layer that provides parameters and buffers.
    """

    def __init__(self, layer: nn.BatchNorm1d) -> None:
        nn.Module.__init__(self)
        self.momentum, self.eps = layer.momentum, layer.eps
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        """Map [K · B, C] to [K · B, C]."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        by_feature = _split_members(x, self.weight).transpose(0, 1)  # [B, K, C]
        means, variances = self.running_mean.view(-1), self.running_var.view(-1)
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        normalized = F.batch_norm(
            by_feature.flatten(1),
            means,
            variances,
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            self.momentum,
            self.eps,
        )
        return normalized.view(by_feature.shape).transpose(0, 1).flatten(0, 1)


def _split_members(x: Tensor, stacked: Tensor) -> Tensor:
    """Return a batch [K · B, …] as [K, B, …], with K members as in a stacked tensor [K, …]."""
    return x.unflatten(0, (stacked.size(0), -1))
