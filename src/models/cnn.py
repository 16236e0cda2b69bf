"""Convolutional network: INPUT → [CONV → ACTIVATION → POOL]^N → [FC → ACTIVATION]^M → OUTPUT (textbook, CNN)."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.activations import activation as make_activation
from src.layers.dropout import DropConnect
from src.layers.initialization import initialize
from src.models.image_model import ImageModel

_POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}

T = TypeVar("T")
PerBlock: TypeAlias = T | Sequence[T]
"""One value for all blocks, or one for each."""


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return ⌊(H + 2P - K) / S⌋ + 1 (textbook, Output Size Calculation); below 1 if the kernel does not fit."""
    return (size + 2 * padding - kernel) // stride + 1


def _per_block(setting: Any, blocks: int) -> Sequence[Any]:
    return [setting] * blocks if setting is None or isinstance(setting, int | str) else setting


class CNN(ImageModel):
    """Blocks of convolution, activation and pooling, then fully connected layers.

    Each setting of convolution and pooling is one value for all blocks, or a list with one value per block.

    Args:
        spec: the data; inputs are images [C, H, W].
        channels: output channels of each block.
        kernel_size, stride: kernel size and stride of the convolution.
        padding: pixels at each border; ``same`` is ⌊(kernel_size - 1) / 2⌋, which at stride 1 keeps the size of the image for
            an odd kernel_size and loses one pixel for an even one.
        pool: ``max``, ``average`` or ``none``.
        pool_size: side of a pooling window.
        pool_stride: distance between two windows; None: pool_size, so that windows neither overlap nor leave gaps.
        hidden_sizes: widths of the fully connected layers before the output.
        activation, initialization: by name.
        batch_norm: normalise each convolution's output.
        dropout: probability to drop a unit of the fully connected layers.
        spatial_dropout: probability to drop a feature map after a block.
        drop_connect: probability to drop a weight of the fully connected layers except the last.

    Raises:
        UserError: if pooling and strides reduce an image to less than one pixel.
        common: arguments of `Model`.
    """

    def __init__(
        self,
        spec: DataSpec,
        channels: Sequence[int] = (16, 32),
        kernel_size: PerBlock[int] = 3,
        stride: PerBlock[int] = 1,
        padding: PerBlock[int | str] = "same",
        pool: PerBlock[str] = "max",
        pool_size: PerBlock[int] = 2,
        pool_stride: PerBlock[int] | None = None,
        hidden_sizes: Sequence[int] = (128,),
        activation: str = "relu",
        initialization: str = "he",
        batch_norm: bool = False,
        dropout: float = 0.0,
        spatial_dropout: float = 0.0,
        drop_connect: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        width, *size = self.spec.input_shape
        blocks = []
        settings = (
            _per_block(setting, len(channels))
            for setting in (kernel_size, stride, padding, pool, pool_size, pool_stride)
        )
        for number, (out, kernel, step, border, kind, window, window_step) in enumerate(
            zip(channels, *settings, strict=True), 1
        ):
            if border == "same":
                border = (kernel - 1) // 2
            block: list[nn.Module] = [nn.Conv2d(width, out, kernel, step, border)]
            size = [output_size(side, kernel, step, border) for side in size]
            if batch_norm:
                block.append(nn.BatchNorm2d(out))
            block.append(make_activation(activation))
            if kind != "none":
                if window_step is None:
                    window_step = window
                block.append(_POOLS[kind](window, window_step))
                size = [output_size(side, window, window_step) for side in size]
            if min(size) < 1:
                raise UserError(
                    f"model=cnn: block {number} of {len(channels)} leaves {max(size[0], 0)}×{max(size[1], 0)} of images "
                    f"of {self.spec.input_shape[1]}×{self.spec.input_shape[2]}: fewer model.channels, a smaller "
                    "model.kernel_size, model.pool_size or model.stride, or model.pool=none"
                )
            if spatial_dropout:
                block.append(nn.Dropout2d(spatial_dropout))
            blocks.append(nn.Sequential(*block))
            width = out
        self.features = nn.Sequential(*blocks)
        head: list[nn.Module] = [nn.Flatten()]
        width *= size[0] * size[1]
        for hidden in hidden_sizes:
            head.append(DropConnect(width, hidden, drop_connect) if drop_connect else nn.Linear(width, hidden))
            head.append(make_activation(activation))
            if dropout:
                head.append(nn.Dropout(dropout))
            width = hidden
        head.append(nn.Linear(width, self.spec.output_size))
        self.head = nn.Sequential(*head)
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to outputs [B, *output_shape]."""
        return self.head(self.features(x)).reshape(x.size(0), *self.spec.output_shape)
