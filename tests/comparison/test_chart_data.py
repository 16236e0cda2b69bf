"""Charts contain the numbers of the runs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from PIL import Image

from src.comparison import charts
from src.comparison.chart_data import (
    Axis,
    CurveScale,
    axis,
    best_rows,
    curve_records,
    curve_scale,
    mean_curve,
    recorded_predictions,
    row_records,
)
from src.comparison.chart_files import save_charts, specifications
from src.comparison.importance import MAX_KEYS, importance
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


def test_the_size_of_charts_is_bounded(run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    curves = {f"val/m{i}": [1.0, 0.5] for i in range(200)}
    runs = [run(float(i), {"a": f"name {i}", "b": f"other {i}"}, curves=curves) for i in range(300)]
    (view,) = views(runs)
    names = axis("a", view.rows).names
    assert len(names) == 21 and names[0] == "(others)"
    assert len(list(specifications(view))) < 40
    assert "200 metrics have curves; the first 30 are drawn" in caplog.text
    heat_map = dict(specifications(view))["heat-map"]
    assert len(vl_convert.vegalite_to_png(json.dumps(heat_map))) < 10**6


def test_the_important_key_is_first(grid: View) -> None:
    result = importance(grid)
    assert result is not None and result.keys[0] == "optimizer.lr" and result.explained > 0.5 and result.is_reliable
    assert all(abs(loss) < 0.1 * result.loss[0] for loss in result.loss[1:])


def test_importance_of_noise_is_not_reliable(run: MakeRun) -> None:
    runs = [run(float(RANDOM.normal()), {"a": i % 5, "b": i // 5}) for i in range(40)]
    result = importance(views(runs)[0])
    assert result is not None and not result.is_reliable
    assert importance(views(runs[:5])[0]) is None


def test_curves_contain_mean_and_range(grid: View) -> None:
    records = curve_records(grid, grid.rows[:2], ["val/loss", "train/loss"])
    assert [(r["row"], r["split"], r["mean"]) for r in records] == [
        (row, split, mean) for row in (0, 1) for split, mean in (("val", [1.5, 0.5, 0.2]), ("train", [1.0, 0.4]))
    ]
    assert (records[0]["epoch"], records[0]["low"], records[0]["high"]) == ([1, 2, 3], [1.0, 0.5, 0.2], [2.0, 0.5, 0.2])


@pytest.mark.parametrize(
    ("metric", "values", "logarithmic", "ends"),
    [
        ("val/loss", [0.1, 0.2, 0.3], False, (None, None)),
        ("val/loss", [0.01, 0.2, 0.3], True, (0.01, None)),
        ("lr", [0.1, 0.01, 0.0], True, (0.01, None)),
        ("val/accuracy", [0.01, 0.2, 0.3], False, (None, None)),
        ("val/rmse", [*np.linspace(0, 1, 99), 1e6], False, (None, pytest.approx(1.03, abs=0.05))),
    ],
)
def test_no_curve_hides_the_others(
    metric: str, values: list[float], logarithmic: bool, ends: tuple[object, object]
) -> None:
    scale = curve_scale(metric, "min", [{"mean": [*values, None]}])
    assert (scale.logarithmic, (scale.lowest, scale.highest)) == (logarithmic, ends)


def test_rows_contain_score_value_cell_and_height(grid: View) -> None:
    rows = best_rows(grid, len(grid.rows))
    axes = [axis(key, rows) for key in ("optimizer.lr", "model.name")]
    records = row_records(grid, rows, axes)
    best = records[0]
    assert (best["rank"], best["quality"], best["score"]) == (1, 1, pytest.approx(0.105))
    assert (best["value0"], best["cell0"], best["place0"]) == (0.01, "0.01", 2)
    assert best["height0"] == pytest.approx(2 / 3, abs=1e-4) and best["height2"] == 0
    assert {record["value1"] for record in records} == {"mlp", "cnn"} and records[-1]["quality"] == 0


def test_a_deviation_beyond_zero_is_cut_off_on_a_logarithmic_axis(run: MakeRun) -> None:
    runs = [
        run(score, {"a": a, "seed": seed})
        for a, pair in enumerate(((0.01, 0.09), (1.0, 1.2)))
        for seed, score in enumerate(pair)
    ]
    (view,) = views(runs)
    records = row_records(view, view.rows, [axis("a", view.rows)])
    assert [record["low"] for record in records] == [pytest.approx(0.025), pytest.approx(1.1 - 0.2 / 2**0.5, rel=1e-3)]


def test_many_values_are_grouped_into_eight_cells() -> None:
    values = tuple(float(value) for value in range(1, 101))
    cells, names = Axis("a", values).cells()
    assert len(names) == 8 and sorted(set(cells)) == list(range(8)) and names[0] == "1 to 13"
    assert np.allclose(np.histogram(values, 8)[0], np.bincount(cells), atol=1)


def test_every_chart_is_drawn(grid: View, tmp_path: Path) -> None:
    names = ["curves-loss", "schedules", "response", "parallel-coordinates", "heat-map", "importance"]
    assert [name for name, _ in specifications(grid)] == names
    save_charts(tmp_path, [grid])
    for name in names:
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert len(image.convert("RGB").getcolors(10**6) or []) > 5, name
        assert "optimizer.lr" in (tmp_path / "plots" / f"{name}.svg").read_text() or name in (
            "curves-loss",
            "schedules",
        )


def test_every_chart_is_valid_vega_lite(grid: View) -> None:
    rows = best_rows(grid, len(grid.rows))
    axes = [axis(key, rows) for key in grid.keys]
    result = importance(grid)
    assert result is not None
    each = [
        charts.learning_curves("val/loss", ["a", "b"], CurveScale(True, 0.1, 1.0)),
        *(charts.response("val/loss", i, key, i == 0) for i, key in enumerate(axes)),
        charts.heat_map("val/loss", grid.keys),
        charts.parallel_coordinates(axes),
        charts.importance_bars(result),
        charts.confusion_matrix(["a", "b"]),
        charts.predictions(),
    ]
    for chart in each:
        assert chart.to_dict(validate=True) == charts.specification(chart)


def test_the_charts_have_the_values_of_the_rows(grid: View) -> None:
    """Vega computes the cells of the heat map, which are the means of the rows."""
    drawn = dict(specifications(grid))
    heat = vl_convert.vegalite_to_svg(json.dumps(drawn["heat-map"]))
    assert heat.count(">0.105<") + heat.count(">0.11<") >= 1
    texts = ElementTree.fromstring(vl_convert.vegalite_to_svg(json.dumps(drawn["importance"]))).itertext()
    assert "optimizer.lr" in list(texts)


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
    drawn = {name: vl_convert.vegalite_to_svg(json.dumps(chart)) for name, chart in specifications(view)}
    texts = list(ElementTree.fromstring(drawn["confusion-1"]).itertext())
    assert {"1", "3", "4", "$a", "b"} <= set(texts) and "0" not in texts
    points = re.search(r'<g class="mark-symbol.*?</g>', drawn["predictions-2"], re.S)
    assert points is not None and points[0].count("<path") == 2


EXTREMES = [(1e16, 1e16 + 2), (0.0, 5e-324), (5e-324, 1e-320), (-1.7e308, 1.7e308), (1.0, 1 + 2**-52), (1e-300, 1e300)]


@pytest.mark.parametrize("ends", EXTREMES)
def test_extreme_numbers_are_drawn(ends: tuple[float, float], run: MakeRun, tmp_path: Path) -> None:
    low, high = ends
    runs = [
        run(value, {"a": value, "b": place % 3}, curves={"val/loss": [low, high, value], "train/loss": [high]})
        for place, value in enumerate((low, high, low, high, low / 2 + high / 2, high))
    ]
    record = {"true": [[low], [high]], "predicted": [[high], [low]]}
    save_charts(tmp_path, views([replace(each, load_predictions=lambda: record) for each in runs]))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
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
    save_charts(tmp_path / "into", views(runs))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 4 and {file.parent for file in files} == {tmp_path / "into" / "plots"}
    for file in tmp_path.rglob("*.svg"):
        elements = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(file.read_text()).iter()}
        assert not elements & {"script", "image", "a", "foreignObject"}, file.name


def test_importance_of_numbers_beyond_single_precision_and_of_many_keys(run: MakeRun) -> None:
    rates = [1e300, -1e300, float("inf"), float("nan"), *[0.1 * i for i in range(8)]]
    (view,) = views(
        [run(0.1 * (n + 1), {"optimizer.lr": rate, "model.scale": 5e-324 * (n + 1)}) for n, rate in enumerate(rates)]
    )
    estimate = importance(view)
    assert estimate is not None and set(estimate.keys) == {"optimizer.lr", "model.scale"}
    odd = {f"model.k{n}": n for n in range(2000)}
    (view,) = views([run(0.1 + n, {"optimizer.lr": 0.01 * n, **(odd if n == 0 else {})}) for n in range(12)])
    estimate = importance(view)
    assert estimate is not None and len(estimate.keys) == MAX_KEYS


def test_a_hyperparameter_that_is_not_finite_is_drawn(run: MakeRun, tmp_path: Path) -> None:
    values = [float("nan"), float("inf"), float("-inf"), 1.0]
    save_charts(tmp_path, views([run(0.1 + n, {"a": value, "b": n}) for n, value in enumerate(values)]))
    assert (tmp_path / "plots" / "response.svg").is_file()
