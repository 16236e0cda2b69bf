"""Activations that are computed a second time in the backward pass instead of being kept for it (Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *inputs: Any) -> Tensor:
    """Return a block's output, and keep its inputs alone for the backward pass, which runs the block again: with the same
    random numbers, and without a second change of its buffers, such as the running statistics of batch normalization.

    Args:
        block: any part of a model; gradients are those without this, to the last bit.
        inputs: what the block is called with.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_apart(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _buffers_apart(block: nn.Module) -> Iterator[None]:
    """Let a block change copies of its buffers until this ends."""
    kept = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    for module, buffers in kept:
        module._buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers = buffers
