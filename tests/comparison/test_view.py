"""Grouping of runs into rows, statistics, sorting, and the keys that are shown."""

import time

import pytest
from scipy import stats

from src.comparison.config_keys import format_value, informative_keys, is_repetition_key, resolve_name, short_names
from src.comparison.view import View, views
from src.core.errors import UserError
from tests.comparison.conftest import MakeRun


def only(views: list[View]) -> View:
    (view,) = views
    return view


@pytest.mark.req("H4")
def test_seeds_are_repetitions_of_one_row(run: MakeRun) -> None:
    values = {0.1: [0.30, 0.34, 0.32], 0.01: [0.20, 0.21, 0.22]}
    runs = [
        run(value, {"seed": seed, "datamodule.seed": seed, "optimizer.lr": lr})
        for lr, of in values.items()
        for seed, value in enumerate(of)
    ]
    view = only(views(runs))
    assert view.keys == ("optimizer.lr",) and view.repeated
    assert [(row.rank, row.value("optimizer.lr"), len(row.runs)) for row in view.rows] == [(1, 0.01, 3), (2, 0.1, 3)]
    assert view.rows[1].score is not None and view.rows[1].score.mean == pytest.approx(0.32)
    assert view.rows[0].p is None
    assert view.rows[1].p == pytest.approx(stats.ttest_ind(values[0.1], values[0.01], equal_var=False).pvalue)
    assert view.test == "Welch's t-test"
    assert [r.value for r in view.rows[0].runs] == [0.20, 0.21, 0.22], "the best repetition first"


@pytest.mark.req("H4")
def test_folds_are_compared_fold_by_fold(run: MakeRun) -> None:
    folds = {"a": [0.1, 0.5, 0.9, 0.3], "b": [0.12, 0.53, 0.91, 0.34]}
    runs = [
        run(value, {"cross_validation.folds": 4, "cross_validation.fold": fold, "optimizer.name": name})
        for name, values in folds.items()
        for fold, value in enumerate(values)
    ]
    view = only(views(runs[::-1]))
    assert "Nadeau" in view.test and view.folded and len(view.rows) == 2
    p = view.rows[1].p
    assert p is not None and p < 0.1, "each fold is worse, though folds differ far more than the rows do"
    assert stats.ttest_ind(*folds.values(), equal_var=False).pvalue > 0.9


def test_rows_with_other_folds_are_not_compared(run: MakeRun) -> None:
    folds = {"a": (0, 1, 2), "b": (0, 1), "c": (0, 1, 2)}
    runs = [
        run(0.1 * place + 0.01 * fold**2, {"fold": fold, "x": name})
        for place, (name, some) in enumerate(folds.items(), start=1)
        for fold in some
    ]
    runs[-1] = run(0.5, {"fold": 2, "x": "c"})
    assert [row.p is None for row in only(views(runs)).rows] == [True, True, False]


def test_runs_of_unknown_seeds_are_compared(run: MakeRun) -> None:
    values = {1: [0.1, 0.12], 2: [0.3, 0.33, 0.31]}
    runs = [run(value, {"x": x}) for x, of in values.items() for value in of]
    p = only(views(runs)).rows[1].p
    assert p == pytest.approx(stats.ttest_ind(*values.values(), equal_var=False).pvalue)


def test_seeds_and_folds_are_repetition_keys() -> None:
    names = ["seed", "datamodule.seed", "datamodule.split_seed", "cross_validation.fold", "fold"]
    assert all(map(is_repetition_key, names))
    assert not any(map(is_repetition_key, ["cross_validation.folds", "seeds", "model.unfolded", "optimizer.lr"]))


def test_a_mean_is_of_finished_runs_if_there_are_any(run: MakeRun) -> None:
    runs = [
        run(0.3, {"seed": 0}),
        run(0.9, {"seed": 1}, status="running"),
        run(0.1, {"seed": 2}, status="failed"),
        run(None, {"seed": 3}, status="pruned"),
    ]
    row = only(views(runs)).rows[0]
    assert row.score is not None and row.score.values == (0.3,)
    assert row.status == "1 finished, 1 failed, 1 pruned, 1 running"
    unfinished = only(views(runs[1:])).rows[0]
    assert unfinished.score is not None and unfinished.score.values == (0.9,), "a failed run does not count"


def test_a_repeated_seed_counts_once(run: MakeRun) -> None:
    runs = [
        run(0.3, {"seed": 0}, started="2026-11-25T10:00:00"),
        run(0.5, {"seed": 0}, started="2026-11-25T09:00:00"),
        run(0.4, {"seed": 1}),
    ]
    row = only(views(runs)).rows[0]
    assert row.score is not None and sorted(row.score.values) == [0.3, 0.4] and len(row.runs) == 3
    unknown = only(views([run(0.3), run(0.5)])).rows[0]
    assert unknown.score is not None and len(unknown.score.values) == 2, "runs without a seed are independent"


def test_runs_without_a_value_come_last_without_a_rank(run: MakeRun) -> None:
    runs = [run(None, {"optimizer.lr": 1.0}, status="failed"), run(float("nan"), {"optimizer.lr": 0.5}), run(0.2)]
    view = only(views(runs))
    assert [row.rank for row in view.rows] == [1, None, None]
    assert view.rows[0].runs[0] is runs[2]


def test_each_metric_is_ranked_in_its_direction(run: MakeRun) -> None:
    runs = [run(0.1, {"a": 1}, summary={"val/accuracy": 0.7}), run(0.2, {"a": 2}, summary={"val/accuracy": 0.9})]
    assert [row.value("a") for row in only(views(runs)).rows] == [1, 2]
    by_accuracy = only(views(runs, "accuracy"))
    assert (by_accuracy.metric, by_accuracy.mode) == ("val/accuracy", "max")
    assert [row.value("a") for row in by_accuracy.rows] == [2, 1]
    with pytest.raises(UserError, match="Did you mean 'val/accuracy'"):
        views(runs, "val/acuracy")


def test_losses_of_different_data_are_not_compared(run: MakeRun) -> None:
    runs = [run(0.1), run(5.0, {"datamodule.name": "wine"}), run(4.0, {"datamodule.name": "wine", "a": 1})]
    assert [(view.title, len(view.rows)) for view in views(runs)] == [
        ("val/loss on wine, lower is better", 2),
        ("val/loss on digits, lower is better", 1),
    ]
    assert len(only(views(runs, "val/loss")).rows) == 3, "unless the metric is given"


def test_gap_time_and_sizes(run: MakeRun) -> None:
    row = only(views([run(0.5, summary={"train/loss": 0.2})])).rows[0]
    assert [row.text(column) for column in ("gap", "time", "parameters", "epoch")] == ["0.3", "2.0 s", "100", "5"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("optimizer.lr", [0.001, 0.01, 0.1]),
        ("lr:desc", [0.1, 0.01, 0.001]),
        ("val/accuracy", [0.001, 0.1, 0.01]),
        ("accuracy:asc", [0.01, 0.1, 0.001]),
        ("rank", [0.01, 0.1, 0.001]),
        ("time", [0.01, 0.1, 0.001]),  # all equal: the order is kept
    ],
)
def test_sorting_does_not_change_the_ranks(run: MakeRun, sort: str, order: list[float]) -> None:
    accuracies = {0.1: 0.5, 0.01: 0.4, 0.001: 0.6}
    losses = {0.1: 0.2, 0.01: 0.1, 0.001: 0.3}
    runs = [
        run(losses[lr], {"optimizer.lr": lr}, summary={"val/accuracy": accuracy}) for lr, accuracy in accuracies.items()
    ]
    view = only(views(runs, sort=sort))
    assert [row.value("optimizer.lr") for row in view.rows] == order
    assert {row.value("optimizer.lr"): row.rank for row in view.rows} == {0.01: 1, 0.1: 2, 0.001: 3}


@pytest.mark.parametrize("sort", ["lrr", "lr:down"])
def test_an_invalid_order_is_rejected(run: MakeRun, sort: str) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'optimizer\.lr'|asc or desc"):
        views([run(0.1, {"optimizer.lr": 0.1})], sort=sort)


# ---- keys --------------------------------------------------------------------------------------------------------


def test_dependent_keys_are_not_shown(run: MakeRun) -> None:
    command = "python -m src.train -m model=mlp,cnn regularization.dropout=0,0.5"
    runs = []
    for name, channels in (("mlp", None), ("cnn", [16, 32])):
        for p in (0.0, 0.5):
            keys = {"model.name": name, "model.channels": channels, "model.dropout": p, "regularization.dropout": p}
            runs.append(run(0.1, keys, command=command))
    needed, dependent = informative_keys(runs)
    assert set(needed) == {"model.name", "regularization.dropout"}
    assert set(dependent) == {"model.channels", "model.dropout"}


def test_keys_set_on_the_command_line_are_shown(run: MakeRun) -> None:
    """Of two runs, each key determines any other; those that the user set are shown nevertheless."""
    runs = []
    for name, lr, epochs in (("mlp", 0.1, 5), ("cnn", 0.2, 9)):
        keys = {"optimizer.lr": lr, "model.name": name, "trainer.max_epochs": epochs}
        runs.append(run(0.1, keys, command=f"python -m src.train model={name} optimizer.lr={lr}"))
    assert informative_keys(runs) == (["model.name", "optimizer.lr"], ["trainer.max_epochs"])


def test_a_key_may_be_missing_or_null(run: MakeRun) -> None:
    runs = [run(0.1, {"a": None}), run(0.2), run(0.3, {"a": 1})]
    (view,) = views(runs)
    assert [row.text("a") for row in view.rows] == ["null", "-", "1"]


def test_values_are_shown_as_on_the_command_line() -> None:
    values = [None, True, 0.001, 1e-8, 1 / 3, 3, [128, 64], {"layers.*": 0.1}, "adam"]
    assert list(map(format_value, values)) == [
        "null", "true", "0.001", "1e-08", "0.3333333333333333", "3", "[128,64]", '{"layers.*":0.1}', "adam",
    ]  # fmt: skip
    assert format_value("red\x1b[31m") == '"red\\u001b[31m"', "control characters are escaped"


def test_many_keys_are_compared_in_linear_time(run: MakeRun) -> None:
    command = " ".join(f"k{i}=0" for i in range(20_000))
    runs = [run(0.5, {f"k{i}": f"{i} {number}" for i in range(20_000)}, command=command) for number in range(2)]
    start = time.process_time()
    needed, dependent = informative_keys(runs)
    assert len(short_names(needed)) == 20_000 and not dependent
    assert time.process_time() - start < 5, "in quadratic time it takes minutes"


def test_unambiguous_names_are_short() -> None:
    keys = ["model.name", "optimizer.lr", "model.dropout", "regularization.dropout", "val/loss", "time"]
    assert short_names(keys) == ["model", "lr", "model.dropout", "regularization.dropout", "val/loss", "time"]


def test_abbreviated_names_are_resolved() -> None:
    names = [
        "time",
        "val/loss",
        "val/accuracy",
        "test/loss",
        "optimizer.name",
        "optimizer.lr",
        "model.dropout",
        "r.dropout",
    ]
    assert [resolve_name(name, names) for name in ("lr", "optimizer", "accuracy", "time")] == [
        "optimizer.lr", "optimizer.name", "val/accuracy", "time",
    ]  # fmt: skip
    assert resolve_name("dropout", names, shown=["r.dropout"]) == "r.dropout"
    with pytest.raises(UserError, match=r"which one\? model.dropout, r.dropout"):
        resolve_name("dropout", names)
    with pytest.raises(UserError, match=r"Did you mean 'optimizer\.lr'"):
        resolve_name("lrr", names)


def test_a_name_with_a_quote_is_suggested() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'x\.it's_lr'\?"):
        resolve_name("it's_lrr", ["x.it's_lr", "y.zzzzzzzzz"])


def test_many_differing_keys_are_shown_in_linear_time(run: MakeRun) -> None:
    runs = [run(0.1, {f"model.k{number}": f"{name}{number}" for number in range(30_000)}) for name in "ab"]
    started = time.process_time()
    needed, _ = informative_keys(runs)
    assert len(short_names(needed)) == 30_000
    assert time.process_time() - started < 10  # in quadratic time it takes minutes
