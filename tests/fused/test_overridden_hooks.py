"""Models that do a step in a way of their own are not trained as one: what they wrote would silently not be called."""

from typing import Any

import lightning as L
import pytest
from torch import Tensor

from src.core.batches import Batch
from src.fused.overridden_hooks import own_step
from src.models.cnn import CNN
from src.models.mlp import MLP
from src.models.mlp_scratch import MlpScratch
from src.models.recurrent import Recurrent
from src.models.resnet import ResNet
from src.models.transformer import Transformer


class Own(MLP):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return 2 * super().training_step(batch, batch_idx)


class Forward(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Carrying(Recurrent):
    def outputs_of(self, batch: Batch, split: str) -> Tensor:
        return 2 * super().outputs_of(batch, split)


class Moving(L.LightningDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize("model", [MLP, CNN, ResNet, Recurrent, Transformer, Forward])
def test_our_models_and_a_forward_pass_of_its_own_have_none(model: type[MLP]) -> None:
    assert own_step(model) is None


def test_what_would_not_be_called_is_named() -> None:
    assert own_step(MlpScratch) == "MlpScratch.losses"
    assert own_step(Own) == "Own.training_step"
    assert own_step(Carrying) == "Carrying.outputs_of"
    assert own_step(MLP, Moving) == "Moving.on_after_batch_transfer"


@pytest.mark.parametrize(
    "hook",
    [
        *("validation_step", "test_step", "outputs_of", "losses", "configure_optimizers", "lr_scheduler_step"),
        *("on_train_batch_start", "on_after_backward", "on_validation_batch_end", "on_fit_start", "on_load_checkpoint"),
    ],
)
def test_every_hook_that_a_group_leaves_out_counts(hook: str) -> None:
    own = type("Own", (MLP,), {hook: lambda self, *arguments: None})
    assert own_step(own) == f"Own.{hook}"
