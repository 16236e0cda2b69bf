"""Conditions on runs."""

import pytest

from src.comparison.filters import conditions, is_condition, kept
from src.core.errors import UserError
from src.run_store.recorded_run import RecordedRun
from tests.comparison.conftest import MakeRun


@pytest.fixture
def runs(run: MakeRun) -> list[RecordedRun]:
    return [
        run(0.2, {"optimizer.name": "adam", "optimizer.lr": 1e-3, "model.hidden_sizes": [64, 32], "x": None}, name="a"),
        run(0.4, {"optimizer.name": "sgd", "optimizer.lr": 0.1, "model.hidden_sizes": [8], "x": 1}, name="b"),
        run(None, {"optimizer.name": "adam", "optimizer.lr": 0.1, "model.norm": True}, status="failed", name="c"),
    ]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("optimizer.name=adam", "ac"),
        ("optimizer=adam val/loss<0.3", "a"),
        ("optimizer=adam,sgd", "abc"),
        ("optimizer!=adam", "b"),
        ("lr=0.001", "a"),
        ("lr==1e-3", "a"),
        ("lr>=0.1", "bc"),
        ("val/loss>0", "ab"),
        ("val/loss<=0.4", "ab"),
        ("status=failed", "c"),
        ("status!=failed", "ab"),
        ("run=b", "b"),
        ("hidden_sizes=[64,32]", "a"),
        ("x=null", "a"),
        ("x!=1", "a"),
        ("optimizer!=adam,rmsprop", "b"),
        ("optimizer=ad*", "ac"),
        ("norm=true", "c"),
        ("time<3 'optimizer=adam'", "ac"),
        ("parameters>99", "abc"),
    ],
)
def test_what_is_left(runs: list[RecordedRun], text: str, left: str) -> None:
    assert "".join(r.name for r in kept(runs, conditions(text, runs))) == left


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer.nme=adam", r"Did you mean 'optimizer\.name'"),
        ("val/los<1", "Did you mean 'val/loss'"),
        ("val/loss<small", "compares numbers, and 'small' is none"),
        ("optimizer.name<3", r"no run is left of 3(.|\n)*optimizer\.name<3"),
        ("lr=", "a condition is key=value"),
        ("adam", "a condition is key=value"),
        ("'lr=1", "no closing quotation"),
        ("lr=7 optimizer=adam", r"no run is left of 3(.|\n)*lr=7\.0: 0(.|\n)*optimizer.name=adam: 2"),
    ],
)
def test_a_mistake_is_answered(runs: list[RecordedRun], text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        kept(runs, conditions(text, runs))


def test_folders_are_no_conditions() -> None:
    assert all(map(is_condition, ["a.b=1", "val/loss<0.3", "x>=2", "status!=failed"]))
    assert not any(map(is_condition, ["outputs/sweeps/lr", "."]))
