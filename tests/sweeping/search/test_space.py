"""What the overrides of a sweep vary: lists, ranges, intervals, and points drawn from them."""

import math

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy import stats

from src.config.groups import sweeps
from src.config.isolated_hydra import isolated_hydra
from src.core.errors import UserError
from src.sweeping.search.space import Interval, Space, Values
from src.sweeping.wandb_sweep_files import master_config, values


def drawn(override: str, count: int, seed: int = 0) -> list[float]:
    return [float(point[0].partition("=")[2]) for point in Space.of([override]).draw(count, seed)]


@pytest.mark.req("H3")
def test_draws_from_a_log_interval_are_log_uniform() -> None:
    found = np.log(drawn("optimizer.lr=tag(log,interval(1e-4,1e-1))", 4000))
    span = math.log(1e-1) - math.log(1e-4)
    assert stats.kstest(found, stats.uniform(math.log(1e-4), span).cdf).pvalue > 0.01
    assert stats.kstest(np.exp(found), stats.uniform(1e-4, 0.0999).cdf).pvalue < 1e-6, "and not uniform"


@pytest.mark.req("H3")
def test_draws_from_an_interval_and_a_list_are_uniform_and_independent() -> None:
    overrides = ["regularization.dropout=interval(0.1,0.7)", "model=mlp,cnn,lstm", "seed=int(interval(1,1000000))"]
    points = [[override.partition("=")[2] for override in point] for point in Space.of(overrides).draw(3000, seed=1)]
    dropouts = np.array([float(point[0]) for point in points])
    assert stats.kstest(dropouts, stats.uniform(0.1, 0.6).cdf).pvalue > 0.01
    counts = [sum(point[1] == name for point in points) for name in ("mlp", "cnn", "lstm")]
    assert sum(counts) == 3000 and stats.chisquare(counts).pvalue > 0.01
    seeds = np.array([float(point[2]) for point in points])
    assert (seeds == seeds.round()).all() and stats.spearmanr(dropouts, seeds).pvalue > 0.01


def test_more_draws_begin_with_the_same_and_none_comes_twice() -> None:
    space = Space.of(["optimizer.lr=tag(log,interval(1e-4,1e-1))", "seed=1", "model.hidden_sizes=[8],[16]"])
    assert space.draw(30, seed=3)[:10] == space.draw(10, seed=3) != space.draw(10, seed=4)
    few = Space.of(["model=mlp,cnn", "seed=0,1,2"])
    assert sorted(few.draw(100, seed=0)) == sorted(few.grid()), "a small space is drawn to its end"


def test_overrides_are_parsed_in_their_order() -> None:
    space = Space.of(["a=1", "b=1,2", "c=interval(0.5,1)", "d=range(1,8,3)", "e=int(interval(2,9))", "a=[1,2]"])
    assert space.fixed == ("a=[1,2]",) and [axis.key for axis in space.axes] == ["b", "c", "d", "e"]
    assert space.axes == (
        Values("b", ("1", "2")),
        Interval("c", 0.5, 1.0),
        Values("d", ("1", "4", "7"), (1, 7, 3)),
        Interval("e", 2, 9),
    )
    assert space.point(["2", "0.7", "4", "5"]) == ["a=[1,2]", "b=2", "c=0.7", "d=4", "e=5"]


def test_numbers_are_written_short_and_within_the_ends() -> None:
    axis = Interval("lr", 0.00012345, 0.1, log=True)
    assert axis.format_value(0.0123456789) == "0.01235"
    assert 0.00012345 <= float(axis.format_value(0.00012345)) <= 0.1
    assert {Interval("n", 1, 3).at(q) for q in np.linspace(0, 0.999, 50)} == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=interval(1,0.1)", "the first number must be less than the second"),
        ("lr=tag(log,interval(0,1))", "needs positive numbers"),
        ("lr=tag(lgo,interval(1,2))", "Possible: log"),
        ("n=range(5,5)", "this range is empty"),
    ],
)
def test_an_invalid_range_is_rejected(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Space.of([override])


def test_a_grid_refuses_an_interval_and_names_what_does_not() -> None:
    with pytest.raises(UserError, match=r"search=random and search=optuna sample from it.*optimizer.lr=0.0001,0.0031"):
        list(Space.of(["optimizer.lr=tag(log,interval(1e-4,1e-1))"]).grid())


@pytest.mark.req("H1")
@pytest.mark.parametrize("name", sweeps())
def test_what_a_search_draws_from_has_the_ends_of_the_grid(name: str) -> None:
    """The documented ranges again, as intervals; rates and decays on a log scale."""
    with isolated_hydra():
        _, master = master_config(name)
        grid, ranges = values(master), dict(master.search.ranges)
    assert set(ranges) <= set(grid)
    for key, text in ranges.items():
        (axis,) = Space.of([f"{key}={text}"]).axes
        assert isinstance(axis, Interval)
        numbers = [float(OverridesParser.create().parse_override(f"x={override}").value()) for override in grid[key]]  # type: ignore[arg-type]
        ends = min(number for number in numbers if number > 0 or not axis.log), max(numbers)
        if name != "stage_4_regularization":  # its decays are the grid of a stage, and the interval the documented one
            assert (axis.low, axis.high) == ends
        assert axis.log == key.endswith((".lr", "weight_decay", "warmup_steps"))
