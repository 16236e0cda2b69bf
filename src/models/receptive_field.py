"""Receptive field and jump of a network's layers, followed operation by operation (textbook, Receptive Field Analysis)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.compat.torch_private import TorchDispatchMode

aten = torch.ops.aten


class Field(NamedTuple):
    """What one unit sees of the input, in pixels of each spatial axis.

    Args:
        size: side of the region of the input that influences the unit.
        jump: distance between the regions of two units that are neighbours.
    """

    size: tuple[int, ...]
    jump: tuple[int, ...]

    def grown(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> "Field":
        """Return the field after a window: RF + d·(k - 1)·J and J·s, where J = ∏ of the strides before it (E5)."""
        windows = zip(self.size, self.jump, kernel, dilation, strict=True)
        return Field(
            tuple(size + d * (k - 1) * jump for size, jump, k, d in windows),
            tuple(jump * s for jump, s in zip(self.jump, stride, strict=True)),
        )


class ReceptiveFields(TorchDispatchMode):
    """Inside it, `of` tells the field of every tensor [B, C, *space] that follows from an input by convolution,
    pooling, batch norm in evaluation and whatever works on each position alone; where branches meet, the larger field.

    Anything else, such as a product with a matrix or a global mean, ends it, as every unit then sees the whole input.

    Args:
        images: the input [B, C, *space].
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        ones = (1,) * (images.dim() - 2)
        self._known: dict[int, tuple[Tensor, Field]] = {}  # with the tensor, so that no other takes over its identity
        if ones:  # vectors have no neighbours
            self._note(images, Field(ones, ones))

    def of(self, tensor: Any) -> Field | None:
        """Return the field of a tensor's units, if it is known."""
        known = self._known.get(id(tensor))
        return known[1] if known else None

    def _note(self, tensor: Tensor, field: Field) -> None:
        self._known[id(tensor)] = (tensor, field)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        fields = [field for tensor in _tensors((args, kwargs or {})) if (field := self.of(tensor)) is not None]
        if fields and (field := _after(func, args, fields)) is not None:
            output = result[0] if isinstance(result, (tuple, list)) else result
            if isinstance(output, Tensor) and output.dim() == 2 + len(field.size):
                self._note(output, field)
        return result


def _tensors(arguments: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, (list, tuple, dict)):
        for part in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from _tensors(part)


_KEEPS = {
    "aten.native_batch_norm.default",
    "aten.constant_pad_nd.default",
    "aten.cat.default",
    "aten.clone.default",
    "aten._to_copy.default",
}
_POOLS = {aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default}
_MEANS = {aten.avg_pool2d.default, aten.avg_pool3d.default}


def _after(func: Any, args: Any, fields: list[Field]) -> Field | None:
    axes = len(fields[0].size)
    field = Field(*(tuple(map(max, zip(*sides, strict=True))) for sides in zip(*fields, strict=True)))
    if func is aten.convolution.default:
        _, weight, _, stride, _, dilation, transposed = args[:7]
        return None if transposed else field.grown(weight.shape[2:], stride, dilation)
    if func in _POOLS | _MEANS:
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        dilation = args[4] if func in _POOLS and len(args) > 4 else [1] * axes
        return field.grown(kernel, stride, dilation)
    if func is aten.slice.Tensor:
        axis, step = (args[1] if len(args) > 1 else 0) - 2, args[4] if len(args) > 4 else 1
        hops = [step if axis == own else 1 for own in range(axes)]
        return field.grown([1] * axes, hops, [1] * axes)
    return field if str(func) in _KEEPS or torch.Tag.pointwise in func.tags else None
