"""Clipped gradients against their formulas, through a real step of the trainer (textbook, Exploding Gradient Problem)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.training.experiment import build

LIMIT = 0.01
"""Far below the norm of the gradient, and within the range of its entries."""


def by_norm(gradients: list[Tensor]) -> list[Tensor]:
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))  # type: ignore[call-overload]
    assert norm > 2 * LIMIT
    return [gradient * LIMIT / (norm + 1e-6) for gradient in gradients]  # torch's 1e-6 guards against zero


def by_value(gradients: list[Tensor]) -> list[Tensor]:
    everything = torch.cat([gradient.abs().flatten() for gradient in gradients])
    assert (everything > LIMIT).any() and (everything < LIMIT).any()
    return [gradient.clamp(-LIMIT, LIMIT) for gradient in gradients]


@pytest.mark.req("R5")
@pytest.mark.parametrize(
    ("overrides", "clip"),
    [
        (["regularization=gradient_clipping", f"regularization.gradient_clip_norm={LIMIT}"], by_norm),
        (["regularization=gradient_value_clipping", f"regularization.gradient_clip_value={LIMIT}"], by_value),
        (["regularization.gradient_clip_norm=1000.0"], list),
        (["regularization.gradient_clip_norm=null"], list),
    ],
)
@pytest.mark.parametrize("model", ["rnn", "lstm"])
def test_step_uses_the_clipped_gradient(
    fast: Callable[..., list[str]], model: str, overrides: list[str], clip: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    choice = [f"model={model}", "datamodule=mackey_glass", "optimizer=sgd", "optimizer.lr=0.5", "callbacks=none"]
    config = check(compose(fast(*choice, *overrides, "trainer.precision=64-true", "trainer.limit_train_batches=1")))
    experiment = build(config)
    network = experiment.model.double()
    x, y = next(iter(experiment.datamodule.train_dataloader()))
    loss = (network(x.double()) - y.double()).square().mean()
    gradients = list(torch.autograd.grad(loss, list(network.parameters())))
    expected = [p.detach() - 0.5 * g for p, g in zip(network.parameters(), clip(gradients), strict=True)]
    experiment.trainer.fit(network, datamodule=experiment.datamodule)
    torch.testing.assert_close([p.detach() for p in network.parameters()], expected, rtol=0, atol=1e-12)


@pytest.mark.req("R5")
@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_recurrent_models_clip_the_norm_at_one_by_default(model: str) -> None:
    assert check(compose([f"model={model}"])).regularization.gradient_clip_norm == 1.0
