"""The examples of all members as one batch, compared with a vmap over members."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.fused.layers import folded
from src.fused.layers.folded import can_fold
from src.fused.population.population import Population
from src.layers.activations import ACTIVATIONS
from src.models.mlp import MLP
from tests.fused.population.conftest import Twins, stacked

DIGITS = DataSpec("classification", "image", (1, 8, 8), (10,))
EVERYTHING = {"batch_norm": True, "dropout": 0.1, "drop_connect": 0.1}


class CenteredMLP(MLP):
    """Model in which examples of a batch affect each other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_with_any_setting_can_be_folded(activation: str) -> None:
    assert can_fold(MLP(DIGITS, activation=activation, **EVERYTHING))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "module", [nn.PReLU(), nn.LayerNorm(128), nn.BatchNorm1d(128, momentum=None), nn.BatchNorm1d(128, affine=False)]
)
def test_unsupported_module_prevents_folding(module: nn.Module) -> None:
    model = MLP(DIGITS)
    model.layers[2] = module
    assert not can_fold(model)


def test_custom_model_cannot_be_folded() -> None:
    assert not can_fold(CenteredMLP(DIGITS))


@pytest.mark.parametrize(
    "overrides",
    [
        ["regularization=batch_norm"],
        ["datamodule=mackey_glass", "model.series=independent"],
        ["datamodule=breast_cancer"],
    ],
    ids=str,
)
def test_folding_and_vmap_train_alike(
    twins: Callable[..., Twins], monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    """Weights, buffers, losses and outputs are equal, for members with batches of their own and with a common batch."""
    pair = twins("model=mlp", "optimizer=momentum", *overrides)
    others = deepcopy(pair.models)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in pair.models]
    other_optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in others]
    one = Population(pair.models, optimizers)
    monkeypatch.setattr(folded, "FOLDABLE_MODELS", ())
    other = Population(others, other_optimizers)
    assert one._template.can_fold and not other._template.can_fold
    close = {"rtol": 1e-10, "atol": 1e-10}
    for batches in pair.batches(6):
        for batch, is_stacked in ((stacked(batches), True), (batches[0], False)):
            torch.testing.assert_close(one.step(batch, is_stacked), other.step(batch, is_stacked), **close)
            torch.testing.assert_close(one.outputs(batch, is_stacked), other.outputs(batch, is_stacked), **close)
    for model, twin in zip(pair.models, others, strict=True):
        torch.testing.assert_close(model.state_dict(), twin.state_dict(), **close)


def test_without_folding_each_member_sees_its_own_batch(twins: Callable[..., Twins]) -> None:
    """A mean over the batch is a mean over the examples of the member."""
    pair = twins("model=mlp")
    for model in (*pair.models, *pair.separate):
        model.__class__ = CenteredMLP
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(4):
        losses = population.step(stacked(batches))
        torch.testing.assert_close(losses, pair.step_separately(batches), rtol=1e-10, atol=1e-10)
