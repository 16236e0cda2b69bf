"""Conditions on runs."""

import pytest

from src.comparison.filters import is_condition, matching_runs, parse_filters
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
    ("text", "names"),
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
def test_filters_select_runs(runs: list[RecordedRun], text: str, names: str) -> None:
    assert "".join(r.name for r in matching_runs(runs, parse_filters(text, runs))) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.nme=adam", r"Did you mean 'optimizer\.name'"),
        ("val/los<1", "Did you mean 'val/loss'"),
        ("val/loss<small", "compares numbers, but 'small' is not a number"),
        ("optimizer.name<3", r"none of 3 runs matches(.|\n)*optimizer\.name<3"),
        ("lr=", "a condition is key=value"),
        ("adam", "a condition is key=value"),
        ("'lr=1", "no closing quotation"),
        ("lr=7 optimizer=adam", r"none of 3 runs matches(.|\n)*lr=7\.0: 0(.|\n)*optimizer.name=adam: 2"),
    ],
)
def test_invalid_filters_are_reported(runs: list[RecordedRun], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        matching_runs(runs, parse_filters(text, runs))


def test_folders_are_not_conditions() -> None:
    assert all(map(is_condition, ["a.b=1", "val/loss<0.3", "x>=2", "status!=failed"]))
    assert not any(map(is_condition, ["outputs/sweeps/lr", "."]))
