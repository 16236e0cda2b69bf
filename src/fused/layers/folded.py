"""Networks that take the examples of all members as one batch [K · B, …], those of one after those of another: whatever
treats each example alone need not know that there are members, and a step passes through no vmap.
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
"""Whose `forward` treats each example alone, whatever its modules do."""
PARAMETER_FREE = (nn.Sequential, nn.Flatten, nn.Identity, *ACTIVATIONS.values())
"""Modules without tensors that treat each example alone."""


def can_fold(model: Model) -> bool:
    """Tell whether a model has a form for the examples of all members as one batch."""
    return type(model) in FOLDABLE_MODELS and all(
        module is model or type(module) in PARAMETER_FREE or folded_module(module) is not None for module in model.modules()
    )


def folded_module(module: nn.Module) -> nn.Module | None:
    """Return the form of a module for the examples of all members as one batch; None where it needs none, or has none."""
    if type(module) is nn.Linear:
        return FoldedLinear(module)
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats and module.momentum is not None:
        return FoldedBatchNorm(module)
    if type(module) is DropConnect:
        return FoldedDropConnect(module)
    return FoldedDropout() if type(module) is nn.Dropout else None


class FoldedLinear(MemberLinear):
    """As ``nn.Linear``, whose parameters it has."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [K · B, width_in] to [K · B, width_out]."""
        return batched_linear(_split_members(x, self.weight), self.weight, self.bias).flatten(0, 1)


class FoldedDropConnect(MemberDropConnect):
    """As `DropConnect`, whose parameters it has."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.training and self.has_dropout:
            weight = weight * dropout_mask(weight, tuple(weight.shape), self.rate.view(-1, 1, 1))
        return batched_linear(_split_members(x, weight), weight, self.bias).flatten(0, 1)


class FoldedDropout(HasDropoutRate):
    """As ``nn.Dropout``."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.has_dropout):
            return x
        members = _split_members(x, self.rate)
        rate = self.rate.view(-1, *[1] * x.dim())
        return (members * dropout_mask(members, tuple(members.shape), rate)).flatten(0, 1)


class FoldedBatchNorm(nn.BatchNorm1d):
    """As ``nn.BatchNorm1d``, with the features of all members beside each other.

    Args:
        layer: whose parameters and buffers it has.
    """

    def __init__(self, layer: nn.BatchNorm1d) -> None:
        nn.Module.__init__(self)
        self.momentum, self.eps = layer.momentum, layer.eps
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [K · B, C] to [K · B, C]."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        beside = _split_members(x, self.weight).transpose(0, 1)  # [B, K, C]
        means, variances = self.running_mean.view(-1), self.running_var.view(-1)
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        normalized = F.batch_norm(
            beside.flatten(1),
            means,
            variances,
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            self.momentum,
            self.eps,
        )
        return normalized.view(beside.shape).transpose(0, 1).flatten(0, 1)


def _split_members(x: Tensor, stacked: Tensor) -> Tensor:
    """Return the examples [K, B, …] of each member, of which there are as many as rows of a stack."""
    return x.unflatten(0, (stacked.size(0), -1))
