"""Fully connected layers within a vmap over members."""

import torch
from torch import Tensor, nn

from src.fused.layers.vmap_escape import call_outside_vmap


class MemberLinear(nn.Linear):
    """As ``nn.Linear``: one product of all members' matrices that adds the bias too, where a vmap would add it in a pass
    of its own.

    Args:
        layer: whose parameters it has.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width_in] to [..., width_out]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Do what ``F.linear`` does, within a vmap over members."""
    return call_outside_vmap(batched_linear, x, weight, bias)


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map [K, …, width_in] to [K, …, width_out], by weights [K, width_out, width_in] and biases [K, width_out]."""
    rows = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
    batched_linear = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return batched_linear.reshape(*x.shape[:-1], -1)
