"""Presets follow the textbook's advice (Practical Implementation Guidelines), and early stopping is always enabled."""

import pytest

from src.config.compose import compose
from src.config.validate import check

ADVICE = {
    "adam_first": ("Adam", "ReduceLROnPlateau"),
    "sgd_momentum": ("SGD", "StepLR"),
    "adamw_transformer": ("AdamW", "CosineLR"),
}


@pytest.mark.req("H5")
@pytest.mark.parametrize("name", ADVICE)
def test_preset_follows_the_advice(name: str) -> None:
    config = check(compose([f"experiment={name}"]))
    optimizer, scheduler = ADVICE[name]
    assert (config.optimizer.target or "").rpartition(".")[2] == optimizer
    assert (config.scheduler.target or "").rpartition(".")[2] == scheduler
    assert 1e-5 <= config.regularization.weight_decay <= 1e-2
    assert config.regularization.early_stopping_patience and config.callbacks["early_stopping"]
    if name == "sgd_momentum":
        assert 0.9 <= config.optimizer.momentum <= 0.99  # type: ignore[attr-defined]
        assert config.regularization.early_stopping_patience > config.scheduler.step_size  # type: ignore[attr-defined]
    if name == "adamw_transformer":
        assert config.model.name == "transformer"


@pytest.mark.req("H5")
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet", "rnn", "lstm", "gru", "transformer"])
@pytest.mark.parametrize("regularization", ["default", "dropout", "l2", "[dropout,l2]"])
def test_early_stopping_is_always_on(model: str, regularization: str) -> None:
    config = check(compose([f"model={model}", f"regularization={regularization}"]))
    assert config.regularization.early_stopping_patience
    assert (config.callbacks["early_stopping"] or {})["patience"] == config.regularization.early_stopping_patience
    assert config.callbacks["checkpoints"], "the best weights are saved, and tested"
