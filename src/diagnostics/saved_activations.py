"""Memory that a model saves for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from src.compat.torch_private import view_base
from src.core.batches import Batch
from src.models.base import Model


def saved_bytes(model: Model, batch: Batch) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without parameters and inputs.

    The states of the random number generators are restored.

    Args:
        model: model in training mode.
        batch: a batch on the model's device.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *batch)}
    storage_bytes: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storage_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            losses = model.task.losses(model(*batch.inputs), batch.targets)
        del losses
    return sum(storage_bytes.values())


def meta_saved_bytes(model: Any, batch: Batch) -> int | None:
    """Return the bytes that a forward pass on the meta device saves for the backward pass, without the weights.

    Each storage is counted once. None if the forward pass depends on values, which meta tensors do not have.
    """
    weights = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        base = view_base(tensor)
        if id(base) not in weights:
            saved[id(base)] = base
        return tensor

    inputs = [tensor.to("meta") for tensor in batch.inputs]
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            model.train()(*inputs)
    except (RuntimeError, NotImplementedError):  # the forward pass reads values
        return None
    return sum(map(_bytes, saved.values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
