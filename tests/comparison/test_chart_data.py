"""Charts show the numbers of the runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison.chart_data import axis, mean_curve, recorded_predictions
from src.comparison.charts import curve_figure, figures, heat_figure, response_figure, save_figures
from src.comparison.importance import importance
from src.comparison.view import View, views
from src.run_store.reader import read_runs
from tests.comparison.conftest import MakeRun, WriteRun
from tests.hostile import HOSTILE

RANDOM = np.random.default_rng(0)


@pytest.fixture
def grid(run: MakeRun) -> View:
    """Loss = (log10 lr + 2)² + 0.1, whatever the width."""
    runs = [
        run(
            (exponent + 2) ** 2 + 0.1 + 0.01 * seed,
            {"optimizer.lr": 10.0**exponent, "model.width": width, "model.name": name, "seed": seed},
            curves={"val/loss": [1 + seed, 0.5, 0.2], "train/loss": [1.0, 0.4], "lr": [0.1, 0.01, 0.0]},
        )
        for exponent in (-4, -3, -2, -1)
        for width in (8, 16, 32)
        for name in ("mlp", "cnn")
        for seed in (0, 1)
    ]
    (view,) = views(runs)
    return view


def test_a_mean_curve_has_mean_and_range_and_does_not_jump_where_a_run_stops(run: MakeRun) -> None:
    curves = [[1.0, 0.5, 0.3], [3.0, float("nan")], [2.0]]
    curve = mean_curve([run(0.1, curves={"val/loss": values}) for values in curves], "val/loss")
    assert curve is not None
    assert (list(curve.epochs), curve.mean) == ([1, 2, 3], [2.0, 1.25, 1.15])
    assert (curve.low, curve.high) == ([1.0, 0.5, 0.3], [3.0, 2.0, 2.0])
    late = mean_curve(
        [run(0.1, curves={"val/loss": [1.0, 1.0, 1.0, 1.0]}), run(0.1, curves={"val/loss": [3.0, 3.0]})], "val/loss"
    )
    assert late is not None and late.mean == [2.0] * 4
    assert mean_curve([run(0.1)], "val/loss") is None


def test_axes_of_keys(grid: View, run: MakeRun) -> None:
    assert axis("optimizer.lr", grid.rows).logarithmic and not axis("model.width", grid.rows).logarithmic
    (rates,) = views(
        [run(0.1, {"optimizer.lr": 0.01, "model.width": 8}), run(0.2, {"optimizer.lr": 0.02, "model.width": 9})]
    )
    assert axis("optimizer.lr", rates.rows).logarithmic, "the axis of a learning rate is always logarithmic"
    assert not axis("model.width", rates.rows).logarithmic
    names = axis("model.name", grid.rows)
    assert names.names == ("cnn", "mlp") and set(names.values) == {0.0, 1.0}
    (view,) = views([run(0.1, {"a": 10}), run(0.2, {"a": None}), run(0.3), run(0.4, {"a": 9})])
    assert axis("a", view.rows).names == ("9", "10", "-", "null")


def test_the_important_key_is_first(grid: View) -> None:
    result = importance(grid)
    assert result is not None and result.keys[0] == "optimizer.lr" and result.explained > 0.5 and result.is_reliable
    assert all(abs(loss) < 0.1 * result.loss[0] for loss in result.loss[1:])


def test_importance_of_noise_is_not_reliable(run: MakeRun) -> None:
    runs = [run(float(RANDOM.normal()), {"a": i % 5, "b": i // 5}) for i in range(40)]
    result = importance(views(runs)[0])
    assert result is not None and not result.is_reliable
    assert importance(views(runs[:5])[0]) is None


def test_a_curve_figure_has_the_means(grid: View) -> None:
    rows = grid.rows[:2]
    axes = curve_figure(grid, rows, ["val/loss", "train/loss"]).axes[0]
    lines = [line.get_ydata().tolist() for line in axes.get_lines()]
    assert lines == [[1.5, 0.5, 0.2], [1.0, 0.4]] * 2
    assert curve_figure(grid, rows, ["lr"]).axes[0].get_yscale() == "log"


def test_a_response_figure_has_logarithmic_axes(grid: View) -> None:
    figure = response_figure(grid, grid.rows, ["optimizer.lr", "model.width"])
    assert [axes.get_xscale() for axes in figure.axes[:2]] == ["log", "linear"]
    points = figure.axes[0].get_lines()[0]
    values = dict(zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert values == pytest.approx({10.0**e: (e + 2) ** 2 + 0.105 for e in (-4, -3, -2, -1)})


def test_a_heat_map_has_the_mean_of_each_cell(grid: View) -> None:
    axes = heat_figure(grid, grid.rows, "optimizer.lr", "model.width").axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(0, 2)] == texts[(2, 2)] == "0.105" and texts[(1, 0)] == "4.105" and len(texts) == 12


def test_every_figure_is_drawn(grid: View) -> None:
    names = [name for name, figure in figures(grid) if figure.axes]
    assert names == ["curves-loss", "schedules", "response", "parallel-coordinates", "heat-map", "importance"]


def test_names_are_not_drawn_as_formulas(run: MakeRun, tmp_path: Path) -> None:
    runs = [run(0.1 * i, {"notes": f"$\\frac{i}", "a": i % 3}, curves={"val/loss": [1.0, 0.5]}) for i in range(1, 12)]
    for name, figure in figures(views(runs)[0]):
        figure.savefig(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"confusion": [[1, 2]], "classes": ["a", "b"]}',
        '{"confusion": [[1, "2"], [0, 1]], "classes": ["a", "b"]}',
        '{"confusion": [[1, 2], [0, 1]]}',
        '{"true": [[1]], "predicted": [[1], [2]]}',
        '{"true": [], "predicted": []}',
        '{"true": [1], "predicted": [1]}',
    ],
)
def test_damaged_predictions_are_omitted(write_run: WriteRun, text: str) -> None:
    folder = write_run("a")
    (folder / "predictions.json").write_text(text)
    (run,) = read_runs(folder)
    assert recorded_predictions(run) is None


def test_predictions_are_drawn(write_run: WriteRun) -> None:
    write_run("numbers").joinpath("predictions.json").write_text(
        json.dumps({"true": [[1.0], [2.0]], "predicted": [[1.5], [2.5]]})
    )
    folder = write_run("classes", {"seed": 1, "model.name": "cnn"}, losses=[0.2])
    folder.joinpath("predictions.json").write_text(json.dumps({"classes": ["$a", "b"], "confusion": [[3, 1], [0, 4]]}))
    (view,) = views(read_runs(folder.parent))
    by_name = dict(figures(view))
    (cells,) = by_name["confusion"].axes
    assert sorted(text.get_text() for text in cells.texts) == ["1", "3", "4"]
    (dots,) = by_name["predictions"].axes
    assert dots.get_lines()[0].get_xydata().tolist() == [[1.0, 1.5], [2.0, 2.5]]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.filterwarnings("ignore:.*Glyph:UserWarning")
def test_hostile_names_are_drawn_as_text(text: str, run: MakeRun, tmp_path: Path) -> None:
    metric = f"val/{text}"
    runs = [
        run(
            0.1 * (place + 1),
            {text: f"{text}{place % 3}", "b": place},
            metric=metric,
            curves={metric: [1.0, 0.5], f"train/{text}": [1.0, 0.5]},
        )
        for place in range(4)
    ]
    confusion = {"classes": [text, "b"], "confusion": [[1, 2], [3, 4]]}
    runs = [replace(single_run, load_predictions=lambda: confusion) for single_run in runs]
    save_figures(tmp_path / "into", views(runs))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 4 and {file.parent for file in files} == {tmp_path / "into" / "plots"}
