"""Bytes that a model saves for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from src.compat.torch_private import base_of
from src.core.batches import Batch
from src.models.base import Model


def bytes_kept(model: Model, batch: Batch) -> int:
    """Return the memory that a forward pass keeps for the backward pass, without parameters and inputs.

    Args:
        model: in the mode in which it trains; random generators are afterwards as they were before.
        batch: on the model's device.
    """
    outside = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *batch)}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses = model.task.losses(model(*batch.inputs), batch.targets)
        del losses
    return sum(kept.values())


def _activations(model: Any, batch: Batch) -> int | None:
    """Return the bytes that a forward pass saves for the backward pass, each storage once, without the weights."""
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    seen: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        base = base_of(tensor)
        if id(base) not in own:
            seen[id(base)] = base
        return tensor

    inputs = [tensor.to("meta") for tensor in batch.inputs]
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            model.train()(*inputs)
    except (RuntimeError, NotImplementedError):  # it looks at values, which are not there
        return None
    return sum(map(_bytes, seen.values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
