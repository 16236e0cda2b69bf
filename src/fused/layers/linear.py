"""Fully connected layers within a vmap over members."""

import torch
from torch import Tensor, nn

from src.fused.layers.vmap_escape import call_outside_vmap


class MemberLinear(nn.Linear):
    """``nn.Linear`` for all members as one batched product that includes the bias, which vmap would add in a second pass.

    Args:
        layer: the layer that provides the parameters.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width_in] to [..., width_out]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` within a vmap over members."""
    return call_outside_vmap(batched_linear, x, weight, bias)


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map [K, …, width_in] to [K, …, width_out] with weights [K, width_out, width_in] and biases [K, width_out]."""
    rows = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
    outputs = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return outputs.reshape(*x.shape[:-1], -1)
