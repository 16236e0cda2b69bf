"""Activation checkpointing: activations are recomputed in the backward pass instead of stored (Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, *inputs: Any) -> Tensor:
    """Return a block's output, and store only its inputs for the backward pass, which runs the block again: with the same
    random numbers, and without a second update of its buffers, such as the running statistics of batch normalization.

    Args:
        block: any part of a model; its gradients are bitwise equal to those without checkpointing.
        inputs: arguments of the block.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _preserved_buffers(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _preserved_buffers(block: nn.Module) -> Iterator[None]:
    """Make a block update copies of its buffers, and restore the originals afterwards."""
    originals = [
        (module, name, buffer) for module in block.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in originals:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in originals:
            setattr(module, name, buffer)
