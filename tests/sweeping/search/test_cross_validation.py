"""Folds and seeds of a sweep: every fold is a job, and the ranking reports repeated jobs as mean ± deviation."""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.sweeping.search.cross_validation import expand_folds

MakeOverrides = Callable[..., list[str]]

pytestmark = pytest.mark.req("H4")


def test_a_sweep_over_folds_has_all_of_them() -> None:
    overrides = ["cross_validation.folds=3", "optimizer.lr=1e-3,1e-2"]
    assert expand_folds(overrides, compose(overrides[:1])) == [*overrides, "cross_validation.fold=1,2,3"]
    assert expand_folds([], compose([])) == []
    some = [*overrides, "cross_validation.fold=2,3"]
    assert expand_folds(some, compose(overrides[:1])) == some, "the folds that were asked for"


@pytest.mark.parametrize("number", ["2,3", "range(2,4)", "choice(2,3)"])
def test_a_sweep_over_numbers_of_folds_is_rejected_with_advice(number: str) -> None:
    overrides = [f"cross_validation.folds={number}"]
    with pytest.raises(
        UserError, match=r"one sweep trains all folds of a single cross_validation.folds value, such as -m .*folds=5"
    ):
        expand_folds(overrides, compose([]))
    named = [*overrides, "cross_validation.fold=1,2"]
    assert expand_folds(named, compose([])) == named, "folds that every number has"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cross_validation.folds=5"], "-m cross_validation.folds=5 trains them all"),
        (["cross_validation.folds=5", "cross_validation.fold=6"], "must be from 1 to 5"),
        (["cross_validation.fold=2"], "cross_validation.folds=5"),
        (["cross_validation.group=patient"], "cross_validation.folds=5"),
        (["cross_validation.folds=1"], "greater than or equal to 2"),
    ],
)
def test_invalid_folds_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(compose(overrides))


@pytest.mark.slow
def test_a_cross_validation_of_two_rates(command, fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = ["src.train", "-m", *fast("datamodule=wine"), "cross_validation.folds=3", "optimizer.lr=1e-3,1e-2"]
    done = command(*overrides, "sweep.name=folds")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/folds/*/run.json")]
    assert len(records) == 6
    by_rate: dict[str, list[float]] = {}
    for path in tmp_path.glob("outputs/sweeps/folds/*/run.json"):
        by_rate.setdefault(path.parent.name.split("_")[0], []).append(json.loads(path.read_text())["value"])
    row = r"^ *[12] +(\S+) ± (\S+) +\[\S+, \S+\] +(?:≈ +|\*+ +)?(\S+) +3 "
    message = re.findall(row, done.stdout, re.MULTILINE)
    assert len(message) == 2 and "± standard deviation over folds" in done.stdout, done.stdout
    for mean, deviation, rate in message:
        values = by_rate[f"lr-{float(rate):g}"]
        assert len(values) == 3
        assert float(deviation) == pytest.approx(statistics.stdev(values), rel=0.06), "two digits of it are shown"
        assert float(mean) == pytest.approx(statistics.fmean(values), abs=0.06 * statistics.stdev(values))
