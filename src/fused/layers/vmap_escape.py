"""The way out of `torch.func.vmap`: code that has its own, faster form for all members."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def call_outside_vmap(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor | None) -> Any:
    """Call a function with the members' tensors as they are outside of a vmap, [K, …] each, and return its outputs within.

    Args:
        function: takes as many tensors as there are inputs, and returns one or several [K, …]; autograd follows it.
        inputs: as a member sees them; None stays None.
    """
    return _CallOutsideVmap.apply(function, *inputs)


class _CallOutsideVmap(Function):
    @staticmethod
    def forward(function: Any, *inputs: Any) -> Any:
        raise AssertionError("there is no vmap to get out of")

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
