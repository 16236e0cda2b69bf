"""Gradient of the loss with respect to earlier states, by lag."""

from typing import Any

import torch
from torch import Tensor

from src.core.batches import Batch
from src.models.recurrent import Recurrent


def gradient_by_lag(model: Recurrent, batch: Batch) -> Tensor:
    """Return ‖∂L_T/∂s_{T-k}‖ for k = 0 … T - 1 [T], the mean over the examples.

    L_T is the loss of the output at the last step, and s_t the state that the network passes from step t to the next: h_t
    of every layer, and C_t for an LSTM. Hence ∂L_T/∂s_{T-k} = ∂L_T/∂s_T · ∏ ∂s_{T-i+1}/∂s_{T-i}, i = 1 … k.

    Args:
        model: a unidirectional network.
        batch: sequences of equal length.
    """
    steps = model.embed(batch.inputs[0])
    targets = batch.targets[:, -1:] if model.every_step else batch.targets
    state: Any = None
    states: list[tuple[Tensor, ...]] = []
    for t in range(steps.size(1)):
        outputs, state = model.read(steps[:, t : t + 1], state=state)
        states.append(state if isinstance(state, tuple) else (state,))
    loss = model.task.losses(model.readout(outputs, state), targets).sum()
    gradients = torch.autograd.grad(loss, [part for parts in states for part in parts], materialize_grads=True)
    width = len(states[0])
    norms = [
        sum(part.square().sum((0, 2)) for part in gradients[t : t + width]).sqrt().mean()  # type: ignore[union-attr]
        for t in range(0, len(gradients), width)
    ]
    return torch.stack(norms).flip(0)
