"""Models with overridden hooks of a step are not fused, because fused training would not call the hooks."""

from typing import Any

import lightning as L
import pytest
from torch import Tensor

from src.core.batches import Batch
from src.fused.overridden_hooks import overridden_hook
from src.models.cnn import CNN
from src.models.mlp import MLP
from src.models.mlp_scratch import MlpScratch
from src.models.recurrent import Recurrent
from src.models.resnet import ResNet
from src.models.transformer import Transformer


class CustomStep(MLP):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return 2 * super().training_step(batch, batch_idx)


class CustomForward(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class CustomOutputs(Recurrent):
    def forward_batch(self, batch: Batch, split: str) -> Tensor:
        return 2 * super().forward_batch(batch, split)


class CustomTransfer(L.LightningDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize("model", [MLP, CNN, ResNet, Recurrent, Transformer, CustomForward])
def test_models_without_overridden_hooks(model: type[MLP]) -> None:
    assert overridden_hook(model) is None


def test_overridden_hook_is_named() -> None:
    assert overridden_hook(MlpScratch) == "MlpScratch.losses"
    assert overridden_hook(CustomStep) == "CustomStep.training_step"
    assert overridden_hook(CustomOutputs) == "CustomOutputs.forward_batch"
    assert overridden_hook(MLP, CustomTransfer) == "CustomTransfer.on_after_batch_transfer"


@pytest.mark.parametrize(
    "hook",
    [
        *("validation_step", "test_step", "forward_batch", "losses", "configure_optimizers", "lr_scheduler_step"),
        *("on_train_batch_start", "on_after_backward", "on_validation_batch_end", "on_fit_start", "on_load_checkpoint"),
    ],
)
def test_every_hook_that_fused_training_does_not_call_is_named(hook: str) -> None:
    model = type("Custom", (MLP,), {hook: lambda self, *arguments: None})
    assert overridden_hook(model) == f"Custom.{hook}"
