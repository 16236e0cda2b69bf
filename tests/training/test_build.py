"""Models are built within the memory that is free."""

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.training.build import build_data, build_model


@pytest.mark.parametrize("width", [1000, 1_000_000])  # of the latter the allocator itself may fail
def test_a_model_that_is_larger_than_memory_is_refused(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = check(compose(["model=mlp", "datamodule=function", f"model.hidden_sizes=[{width},{width}]"]))
    spec = build_data(config).spec
    monkeypatch.setattr("src.training.build.available_memory", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"model: its weights (take more than the 1\.0 MB|do not fit into memory)"):
        build_model(config, spec)
