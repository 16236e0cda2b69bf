"""Tables at the end of a run and of a multirun."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from src.tracking.console import show
from src.tracking.ranking import differing, final_table, print_ranking, rank


@dataclass
class Run:
    value: float | None
    overrides: list[str] = field(default_factory=list)
    status: str = "finished"
    folder: Path = Path("outputs/runs/x")
    metric: str = "val/loss"
    seconds: float | None = 1.0


def words(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_the_final_table(capsys: pytest.CaptureFixture[str]) -> None:
    show(final_table({"test/accuracy": 0.97123, "test/loss": 0.1}, {"test/accuracy": 0.1}))
    assert words(capsys.readouterr().out) == [
        ["metric", "value", "trivial baseline"],
        ["test/accuracy", "0.9712", "0.1"],
        ["test/loss", "0.1"],
    ]


@pytest.mark.parametrize(("mode", "expected"), [("min", [0.0, 1.0, 2.0, 2.0]), ("max", [2.0, 2.0, 1.0, 0.0])])
def test_rank(mode: str, expected: list[float]) -> None:
    runs = [Run(2.0), Run(None), Run(0.0), Run(float("nan")), Run(1.0), Run(2.0, status="interrupted")]
    ranked = rank(runs, mode)
    assert [run.value for run in ranked] == expected
    equal = [run.status for run in ranked if run.value == 2.0]
    assert equal == ["finished", "interrupted"], "equals keep their order"


def test_only_what_differs_is_shown() -> None:
    runs = [["model=mlp", "optimizer.lr=0.1", "seed=1"], ["model=cnn", "optimizer.lr=0.1", "seed=1"], ["model=cnn"]]
    assert differing(runs) == ["model", "optimizer.lr", "seed"]
    assert differing(runs[:2]) == ["model"]
    assert differing([["a=1", "b=[1,2]"], ["a=1", "b=[1,3]"]]) == ["b"]


def test_the_ranking(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        Run(0.5, ["model=mlp", "optimizer.lr=0.1", "seed=1"], folder=Path("runs/a")),
        Run(0.25, ["model=cnn", "optimizer.lr=0.1", "seed=1"], folder=Path("runs/b"), seconds=75.0),
        Run(None, ["model=lstm", "optimizer.lr=0.1", "seed=1"], status="failed", folder=Path("runs/c"), seconds=None),
    ]
    print_ranking(runs, "min")
    assert words(capsys.readouterr().out) == [
        ["rank", "val/loss", "model", "status", "time", "folder"],
        ["1", "0.25", "cnn", "finished", "1:15 min", "runs/b"],
        ["2", "0.5", "mlp", "finished", "1.0 s", "runs/a"],
        ["1 of 3 runs have no val/loss:"],
        ["failed", "runs/c"],
    ]


def test_a_ranking_of_failures_only(capsys: pytest.CaptureFixture[str]) -> None:
    print_ranking([Run(None, status="failed")], "max")
    assert words(capsys.readouterr().out) == [["1 of 1 runs have no val/loss:"], ["failed", "outputs/runs/x"]]


def test_square_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [Run(1.0, ["regularization=[dropout,l2]"]), Run(2.0, ["regularization=[l2]"], folder=Path("a:smile:[b]"))]
    print_ranking(runs, "min")
    out = capsys.readouterr().out
    assert "[dropout,l2]" in out and "[l2]" in out and "a:smile:[b]" in out
