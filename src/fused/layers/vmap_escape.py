"""Call a function outside of an enclosing `torch.func.vmap`, for code with its own, faster batched implementation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def call_outside_vmap(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor | None) -> Any:
    """Call a function with the batched tensors [K, …] of an enclosing vmap over K members.

    Args:
        function: takes as many tensors [K, …] as there are inputs, and returns one tensor [K, …] or a tuple of them; autograd
            differentiates through it.
        inputs: tensors of one member; None stays None.

    Returns:
        the outputs of one member.
    """
    return _CallOutsideVmap.apply(function, *inputs)


class _CallOutsideVmap(Function):
    @staticmethod
    def forward(function: Any, *inputs: Any) -> Any:
        raise AssertionError("call_outside_vmap is called without an enclosing vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: Any, *inputs: Any) -> Any:
        rows = [
            x if x is None else x.expand(info.batch_size, *x.shape) if dim is None else torch.movedim(x, dim, 0)
            for x, dim in zip(inputs, in_dims[1:], strict=True)
        ]
        outputs = function(*rows)
        return outputs, (0,) * len(outputs) if isinstance(outputs, tuple) else 0
