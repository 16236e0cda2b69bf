"""Values that Hydra's grammar cannot read without quotes are quoted; other overrides are unchanged."""

import pytest

from src.config.compose import compose
from src.config.overrides import quote_override
from src.core.errors import UserError


@pytest.mark.parametrize("value", ["a=b", "dönnées/x y.txt", "/tmp/a=b/ü.txt", "héllo wörld", "50 € ~ & ; !", "a#b"])
def test_any_text_can_be_a_value(value: str) -> None:
    assert compose([f"notes={value}"]).notes == value


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1e-3,1e-2",
        "regularization=[dropout,l2]",
        "notes='a=b'",
        "+sweeps=learning_rate",
        "~callbacks.progress",
        "hydra.searchpath=[file://my_project/conf]",
        "--config-dir=my=conf",
        "seed=range(3)",
        "notes=${model.name}",
        "resume=outputs/runs/2026-11-25/1-a+b",
        "notes=",
    ],
)
def test_overrides_that_hydra_parses_are_unchanged(override: str) -> None:
    assert quote_override(override) == override


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot read 'notes=a.udcffb': its bytes are not UTF-8 text"):
        compose(["notes=a\udcffb"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.lr=1e-3,1e-2"], r"optimizer\.lr=1e-3,1e-2: several values make a sweep: .* -m optimizer\.lr"),
        (["model=mlp,cnn"], "model=mlp,cnn: several values make a sweep"),
        (["model=MLP"], "Did you mean 'mlp'"),
    ],
)
def test_common_mistakes_are_explained(overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(overrides)
