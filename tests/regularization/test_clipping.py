"""Gradient clipping in a run: each step against the formula in float64, also with accumulated batches."""

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from src.models.base import Model
from src.training import experiment
from src.training.run import run


class Steps(L.Callback):
    """Records the weights before and after every optimizer step, and the gradient of the loss of every batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights.append(flat(pl_module.parameters()))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Model)
        loss = pl_module.task.losses(pl_module(*batch.inputs), batch.targets).mean()
        self.gradients.append(flat(torch.autograd.grad(loss, list(pl_module.parameters()))))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.weights):
            self.weights.append(flat(pl_module.parameters()))


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def by_norm(gradient: Tensor, bound: float) -> Tensor:
    """g · min(1, c/‖g‖), over all parameters together (textbook: clip_grad_norm_ with max_norm)."""
    return gradient * min(1.0, bound / float(gradient.square().sum().sqrt()))


def by_value(gradient: Tensor, bound: float) -> Tensor:
    """Each element clipped to ±c."""
    return torch.minimum(torch.maximum(gradient, torch.tensor(-bound)), torch.tensor(bound))


@pytest.mark.req("G4", "R5")
@pytest.mark.parametrize(
    ("knob", "bound", "clip", "accumulate"),
    [
        ("gradient_clip_norm", 0.5, by_norm, 1),
        ("gradient_clip_norm", 0.5, by_norm, 3),
        ("gradient_clip_norm", 1e6, by_norm, 3),
        ("gradient_clip_value", 0.01, by_value, 3),
    ],
)
def test_each_step_is_the_formula(
    fast: Callable[..., list[str]],
    knob: str,
    bound: float,
    clip: Callable[[Tensor, float], Tensor],
    accumulate: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """θ ← θ - η · clip(mean of the gradients of the accumulated batches), with plain SGD."""
    steps, original = Steps(), experiment.build_callbacks
    monkeypatch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), steps])
    overrides = ["optimizer=sgd", "optimizer.lr=0.5", "trainer.precision=64-true", "trainer.limit_train_batches=6"]
    overrides += [f"trainer.accumulate_grad_batches={accumulate}", f"regularization.{knob}={bound}"]
    run(fast(*overrides, "trainer.max_epochs=1"), verbose=False)
    assert len(steps.weights) == 6 // accumulate + 1
    clipped = 0
    for number, (before, after) in enumerate(zip(steps.weights, steps.weights[1:], strict=False)):
        parts = steps.gradients[number * accumulate : (number + 1) * accumulate]
        gradient = torch.stack(parts).mean(0)
        assert gradient.dtype == torch.float64
        expected_gradient = clip(gradient, bound)
        torch.testing.assert_close(
            before - after, 0.5 * expected_gradient, rtol=1e-5, atol=1e-12
        )  # torch's norm has + 1e-6
        clipped += not torch.equal(expected_gradient, gradient)
    assert clipped == (0 if bound == 1e6 else 6 // accumulate)
