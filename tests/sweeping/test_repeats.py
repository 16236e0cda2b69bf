"""Folds and seeds of a sweep: every fold is a job, and repeated jobs are told as mean ± deviation."""

import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from scipy import stats

from src.config.check import check
from src.config.compose import compose
from src.errors import UserError
from src.sweeping.repeats import repeated, with_folds

Words = Callable[..., list[str]]

pytestmark = pytest.mark.req("H4")


@dataclass(frozen=True)
class Job:
    overrides: Sequence[str]
    value: float | None
    status: str = "finished"
    metric: str = "val/loss"
    mode: str = "min"


def test_a_sweep_over_folds_has_all_of_them() -> None:
    words = ["cross_validation.folds=3", "optimizer.lr=1e-3,1e-2"]
    assert with_folds(words, compose(words[:1])) == [*words, "cross_validation.fold=1,2,3"]
    assert with_folds([], compose([])) == []
    some = [*words, "cross_validation.fold=2,3"]
    assert with_folds(some, compose(words[:1])) == some, "the folds that were asked for"


def test_the_interval_of_seeds_is_students() -> None:
    values = [0.31, 0.27, 0.35, 0.30]
    jobs = [Job([f"seed={seed}", "optimizer.lr=0.1"], value) for seed, value in enumerate(values)]
    jobs += [Job([f"seed={seed}", "optimizer.lr=0.2"], 1.0) for seed in range(2)]
    jobs += [Job(["seed=9", "optimizer.lr=0.1"], None, "failed"), Job(["seed=0", "optimizer.lr=0.3"], 2.0)]
    best, worse = repeated(jobs)
    assert best.choices["optimizer.lr"] == "0.1" and best.folds == 0 and len(best.seeds) == 4
    expected = stats.t.interval(0.95, 3, loc=statistics.fmean(values), scale=stats.sem(values))
    assert best.interval == pytest.approx(expected, rel=1e-12)
    assert best.mean == pytest.approx(sum(values) / 4) and best.deviation == pytest.approx(statistics.stdev(values))
    assert worse.choices["optimizer.lr"] == "0.2" and worse.interval == (1.0, 1.0)


def test_folds_give_no_interval_and_seeds_are_averaged_over_them() -> None:
    folds = [
        Job(["cross_validation.folds=2", f"cross_validation.fold={fold}"], value) for fold, value in ((1, 3), (2, 5))
    ]
    (one,) = repeated(folds)
    assert (one.mean, one.folds, one.interval) == (4, 2, None) and one.deviation == pytest.approx(math.sqrt(2))
    both = [
        Job([f"cross_validation.fold={fold}", f"seed={seed}"], fold + 10 * seed, mode="max")
        for fold in (1, 2)
        for seed in (0, 1)
    ]
    (one,) = repeated(both)
    assert one.seeds == (1.5, 11.5) and one.interval is not None and one.mean == 6.5


def test_only_repeated_experiments_are_told() -> None:
    assert repeated([Job(["optimizer.lr=0.1"], 1.0), Job(["optimizer.lr=0.2"], 2.0)]) == []
    assert repeated([Job(["seed=0"], 1.0), Job(["seed=1"], 1.0, metric="val/mse")]) == [], "losses that do not compare"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cross_validation.folds=5"], "-m trains them all"),
        (["cross_validation.folds=5", "cross_validation.fold=6"], "there are 5, from 1"),
        (["cross_validation.fold=2"], "cross_validation.folds=5"),
        (["cross_validation.group=patient"], "cross_validation.folds=5"),
        (["cross_validation.folds=1"], "greater than or equal to 2"),
    ],
)
def test_folds_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        check(compose(words))


@pytest.mark.slow
def test_a_cross_validation_of_two_rates(command, fast: Words, tmp_path: Path) -> None:
    words = ["src.train", "-m", *fast("datamodule=wine"), "cross_validation.folds=3", "optimizer.lr=1e-3,1e-2"]
    done = command(*words, "sweep.name=folds")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/folds/*/run.json")]
    assert len(records) == 6
    by_rate: dict[str, list[float]] = {}
    for path in tmp_path.glob("outputs/sweeps/folds/*/run.json"):
        by_rate.setdefault(path.parent.name.split("_")[0], []).append(json.loads(path.read_text())["value"])
    told = re.findall(r"^ *(\S+) +(\S+) +3 +1 +(\S+)$", done.stdout.partition("over folds and seeds")[2], re.MULTILINE)
    assert len(told) == 2
    for mean, deviation, rate in told:
        values = by_rate[f"lr-{float(rate):g}"]
        assert len(values) == 3
        assert float(mean) == pytest.approx(statistics.fmean(values), rel=1e-3)
        assert float(deviation) == pytest.approx(statistics.stdev(values), rel=1e-3)
