"""Residual network of the CIFAR family (He et al. 2016), optionally with stochastic depth (textbook C6)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.layers.activation_checkpointing import checkpointed
from src.layers.activations import activation as make_activation
from src.layers.dropout import StochasticDepth
from src.layers.initialization import initialize
from src.models.image_model import ImageModel


class ResidualBlock(nn.Module):
    """activation(x + branch(x)): two 3×3 convolutions with batch norm. Where the shape changes, the shortcut has no
    parameters: it strides and pads the new channels with zeros (the paper's option A).
    """

    def __init__(self, width_in: int, width: int, stride: int, activation: str, drop: float) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width - width_in
        self.branch = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            make_activation(activation),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.drop = StochasticDepth(drop)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.new_channels > 0:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        elif self.new_channels < 0:
            shortcut = shortcut[:, : self.new_channels]
        return self.activation(shortcut + self.drop(self.branch(x)))


class ResNet(ImageModel):
    """A 3×3 convolution, stages of residual blocks, global average pooling, one linear layer.

    With three stages of widths 16, 32, 64 and n blocks each, it is the paper's CIFAR ResNet with 6n + 2 layers.

    Args:
        spec: the data; inputs are images [C, H, W].
        blocks_per_stage: n.
        widths: channels of each stage; every stage except the first halves the image.
        activation: by name; relu in the paper.
        dropout: probability to drop a unit before the last layer.
        stochastic_depth: probability to skip the last block; the l-th of L blocks is skipped with l/L of this probability.
        checkpoint_activations: recompute each block in the backward pass, which needs less memory and more time.
        common: arguments of `Model`.
    """

    def __init__(
        self,
        spec: DataSpec,
        blocks_per_stage: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        checkpoint_activations: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        self.checkpoint_activations = checkpoint_activations
        self.stem = nn.Sequential(
            nn.Conv2d(self.spec.input_shape[0], widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            make_activation(activation),
        )
        blocks: list[nn.Module] = []
        total = blocks_per_stage * len(widths)
        width_in = widths[0]
        for stage, width in enumerate(widths):
            for number in range(blocks_per_stage):
                stride = 2 if stage and not number else 1
                drop = stochastic_depth * (len(blocks) + 1) / total
                blocks.append(ResidualBlock(width_in, width, stride, activation, drop))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width_in, self.spec.output_size)
        )
        initialize(self, "he")

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to outputs [B, *output_shape]."""
        h = self.stem(x)
        for block in self.blocks:
            h = checkpointed(block, h) if self.checkpoint_activations else block(h)
        return self.head(h).reshape(x.size(0), *self.spec.output_shape)
