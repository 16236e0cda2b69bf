"""A model is not larger than the weights of its checkpoint."""

import logging

import pytest
import torch
from torch import nn

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.training.build import construct_model
from src.training.checkpoint_io import construct_within_size

WEIGHTS = {"table": torch.zeros(3, 4)}


class Table(nn.Module):
    """A model that computes its weights before it registers them."""

    def __init__(self, length: int) -> None:
        super().__init__()
        weights = torch.randn(length, 4)
        assert weights.is_meta or length < 100, "memory was allocated"
        self.table = nn.Parameter(weights * 2.0)


class TableOfValues(Table):
    """A model that cannot be constructed on the meta device."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.total = float(self.table.sum())


@pytest.mark.parametrize("kind", [Table, TableOfValues])
def test_a_larger_model_is_refused_before_its_weights_take_memory(kind: type[Table]) -> None:
    with pytest.raises(UserError, match=r"x\.ckpt: .* larger model than the one that its weights are of"):
        construct_within_size(lambda: kind(2**40), WEIGHTS, {}, "x.ckpt")


@pytest.mark.parametrize("kind", [Table, TableOfValues])
def test_a_model_of_the_recorded_size_is_constructed(kind: type[Table]) -> None:
    model = construct_within_size(lambda: kind(3), WEIGHTS, {}, "x.ckpt")
    assert not model.table.is_meta


VECTOR = DataSpec("classification", "vector", (13,), (3,))
IMAGE = DataSpec("classification", "image", (1, 8, 8), (10,))
SEQUENCE = DataSpec("regression", "sequence", (20, 2), (1,))


@pytest.mark.parametrize(
    ("overrides", "spec"),
    [
        ("model=mlp datamodule=wine", VECTOR),
        ("model=mlp_scratch datamodule=wine", VECTOR),
        ("model=cnn datamodule=digits", IMAGE),
        ("model=resnet datamodule=digits", IMAGE),
        ("model=rnn datamodule=adding", SEQUENCE),
        ("model=lstm datamodule=adding regularization.drop_connect=0.1", SEQUENCE),
        ("model=gru datamodule=adding model.cell=textbook model.initial_state=learned", SEQUENCE),
        ("model=transformer datamodule=adding model.positions=learned", SEQUENCE),
        ("model=transformer datamodule=digits", IMAGE),
    ],
)
def test_every_architecture_is_measured_on_the_meta_device(
    overrides: str, spec: DataSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = check(compose(overrides.split()))
    reference = construct_model(config, spec, None, None).state_dict()
    construct_within_size(lambda: construct_model(config, spec, None, None), reference, {}, "x.ckpt")
    assert "meta device" not in caplog.text
