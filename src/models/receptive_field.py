"""Receptive field and jump of a network's layers, traced operation by operation (textbook, Receptive Field Analysis)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.compat.torch_private import TorchDispatchMode

aten = torch.ops.aten


class Field(NamedTuple):
    """Receptive field of one unit, in pixels along each spatial axis.

    Args:
        size: side of the region of the input that influences the unit.
        jump: distance between the regions of two neighbouring units.
    """

    size: tuple[int, ...]
    jump: tuple[int, ...]

    def after_window(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> "Field":
        """Return the field after a convolution or pooling: RF + d·(k - 1)·J and J·s, where J = ∏ of the strides before (E5)."""
        windows = zip(self.size, self.jump, kernel, dilation, strict=True)
        return Field(
            tuple(size + d * (k - 1) * jump for size, jump, k, d in windows),
            tuple(jump * s for jump, s in zip(self.jump, stride, strict=True)),
        )


class ReceptiveFields(TorchDispatchMode):
    """Context in which `field_of` returns the field of every tensor [B, C, *space] that is computed from an input by
    convolution, pooling, batch norm in evaluation mode and elementwise operations; where branches join, the larger field.

    Other operations, such as a matrix product or a global mean, have no field, because every unit then sees the whole input.

    Args:
        images: the input [B, C, *space].
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        ones = (1,) * (images.dim() - 2)
        self._fields: dict[int, tuple[Tensor, Field]] = {}  # with the tensor, so that no other tensor gets its id
        if ones:  # vectors have no neighbours
            self._record(images, Field(ones, ones))

    def field_of(self, tensor: Any) -> Field | None:
        """Return the field of a tensor's units, or None if it has none."""
        entry = self._fields.get(id(tensor))
        return entry[1] if entry else None

    def _record(self, tensor: Tensor, field: Field) -> None:
        self._fields[id(tensor)] = (tensor, field)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        fields = [field for tensor in tensors_in((args, kwargs or {})) if (field := self.field_of(tensor)) is not None]
        if fields and (field := _output_field(func, args, fields)) is not None:
            output = result[0] if isinstance(result, (tuple, list)) else result
            if isinstance(output, Tensor) and output.dim() == 2 + len(field.size):
                self._record(output, field)
        return result


def tensors_in(arguments: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, (list, tuple, dict)):
        for part in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from tensors_in(part)


_FIELD_PRESERVING = {
    "aten.native_batch_norm.default",
    "aten.constant_pad_nd.default",
    "aten.cat.default",
    "aten.clone.default",
    "aten._to_copy.default",
}
_MAX_POOLS = {aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default}
_AVERAGE_POOLS = {aten.avg_pool2d.default, aten.avg_pool3d.default}


def _output_field(func: Any, args: Any, fields: list[Field]) -> Field | None:
    """Return the field of an operation's output from those of its inputs, or None if it has none."""
    axes = len(fields[0].size)
    sizes, jumps = zip(*fields, strict=True)
    field = Field(tuple(map(max, zip(*sizes, strict=True))), tuple(map(max, zip(*jumps, strict=True))))
    if func is aten.convolution.default:
        _, weight, _, stride, _, dilation, transposed = args[:7]
        return None if transposed else field.after_window(weight.shape[2:], stride, dilation)
    if func in _MAX_POOLS | _AVERAGE_POOLS:
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        dilation = args[4] if func in _MAX_POOLS and len(args) > 4 else [1] * axes
        return field.after_window(kernel, stride, dilation)
    if func is aten.slice.Tensor:
        axis, step = (args[1] if len(args) > 1 else 0) - 2, args[4] if len(args) > 4 else 1
        strides = [step if index == axis else 1 for index in range(axes)]
        return field.after_window([1] * axes, strides, [1] * axes)
    return field if str(func) in _FIELD_PRESERVING or torch.Tag.pointwise in func.tags else None
