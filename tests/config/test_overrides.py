"""Values that Hydra's grammar cannot read bare arrive as they were typed; what it can read is left to it."""

import pytest

from src.config.compose import compose
from src.config.overrides import readable
from src.core.errors import UserError


@pytest.mark.parametrize("value", ["a=b", "dönnées/x y.txt", "/tmp/a=b/ü.txt", "héllo wörld", "50 € ~ & ; !", "a#b"])
def test_any_text_is_a_value(value: str) -> None:
    assert compose([f"notes={value}"]).notes == value


@pytest.mark.parametrize(
    "word",
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
def test_what_hydra_reads_is_left_alone(word: str) -> None:
    assert readable(word) == word


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot read 'notes=a.udcffb': its bytes are no UTF-8 text"):
        compose(["notes=a\udcffb"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=1e-3,1e-2"], r"optimizer\.lr=1e-3,1e-2: several values make a sweep: .* -m optimizer\.lr"),
        (["model=mlp,cnn"], "model=mlp,cnn: several values make a sweep"),
        (["model=MLP"], "Did you mean 'mlp'"),
    ],
)
def test_common_slips_are_answered(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        compose(words)
