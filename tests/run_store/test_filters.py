"""Filter runs by conditions."""

import math
from typing import Any

import pytest

from src.core.errors import UserError
from src.run_store.filters import Condition, condition_values, matching, parse_conditions

CONFIG = {
    "model": {"name": "mlp", "hidden_sizes": [64, 32], "batch_norm": False},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "trainer": {"name": "auto", "precision": None},
    "tags": ["first", "baseline"],
    "seed": 3,
}
RECORD = {"status": "finished", "best": {"val/loss": 0.25, "val/nan": math.nan}, "final": {"test/accuracy": 0.9}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.name=adamw", True),
        ("optimizer=adamw", True),
        ("optimizer==adam*", True),
        ("optimizer!=adamw", False),
        ("optimizer.lr=0.001", True),
        ("optimizer.lr=1e-3", True),
        ("optimizer.lr<1e-3", False),
        ("optimizer.lr<=1e-3", True),
        ("val/loss<0.3 test/accuracy>=0.9", True),
        ("val/loss<0.3 test/accuracy>0.9", False),
        ("val/nan<1", False),
        ("val/nan>1", False),
        ("model.batch_norm=false", True),
        ("model.batch_norm=0", False),
        ("trainer.precision=null", True),
        ("model.hidden_sizes=[64,32]", True),
        ("model.hidden_sizes=[64]", False),
        ("tag=baseline", True),
        ("tag=base", False),
        ("seed=3 status=finished", True),
        ("model.name<3", False),
    ],
)
def test_a_condition_matches_its_meaning(text: str, expected: bool) -> None:
    assert list(matching(parse_conditions(text), [condition_values(CONFIG, RECORD)])) == [expected]


def test_each_run_is_tested() -> None:
    runs: list[dict[str, Any]] = [{"x": 1}, {"x": 2}, {}, {"x": 3}]
    assert list(matching(parse_conditions(["x>1", "x<3"]), runs)) == [False, True, False, False]
    assert list(matching([], runs)) == [True] * 4


def test_a_printed_condition_parses_to_itself() -> None:
    condition = Condition("val/loss", "<", 0.5)
    assert parse_conditions(str(condition)) == [condition]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam", "a condition is key=value"),
        ("lr=", "a condition is key=value"),
        ("optimizer.lr<fast", "compares numbers, but 'fast' is not a number"),
        ("optimizer.lr=0.1'", "cannot read the filter: no closing quotation"),
        ("lr=1e-3", "no run has 'lr'. Did you mean 'optimizer.lr'?"),
        ("val/los<1", "no run has 'val/los'. Did you mean 'val/loss'?"),
    ],
)
def test_an_invalid_condition_is_explained(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(matching(parse_conditions(text), [condition_values(CONFIG, RECORD)]))
    assert message in str(error.value)
