"""Building a model is limited to the free memory."""

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.models.mlp import MLP
from src.training.build import build_data, build_model, construct_model


@pytest.mark.parametrize("width", [1000, 1_000_000])  # for the latter, the allocator itself may fail
def test_a_model_larger_than_memory_is_rejected(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = check(compose(["model=mlp", "datamodule=function", f"model.hidden_sizes=[{width},{width}]"]))
    spec = build_data(config).spec
    monkeypatch.setattr("src.training.build.available_memory", lambda: 1_000_000)
    with pytest.raises(
        UserError, match=r"model: its weights (take more than the 1\.0 MB of free memory|do not fit into memory)"
    ):
        build_model(config, spec)


class ModelWithoutCommon(MLP):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)


def test_a_model_that_does_not_pass_on_the_common_arguments_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    config = check(compose(["model=mlp", "datamodule=wine"]))
    spec = build_data(config).spec
    monkeypatch.setattr("src.training.build.locate", lambda *_: ModelWithoutCommon)
    with pytest.raises(UserError, match=r"Add \*\*common to its arguments"):
        construct_model(config, spec, None, None)
