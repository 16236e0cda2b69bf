"""The page is one self-contained file with the numbers of the runs."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.comparison.page import vega
from src.run_store.recorded_run import RecordedRun
from tests.comparison.conftest import MakeRun, write_page
from tests.core.test_console import acts
from tests.hostile import HOSTILE


def data_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(text)


def own_part(page: Path) -> str:
    """Return a page without the library that draws the charts, which is a megabyte of other authors' code."""
    text = page.read_text(encoding="utf-8")
    assert text.count(vega()) == 1
    return text.replace(vega(), "")


def test_a_page_needs_no_other_file(many: list[RecordedRun], tmp_path: Path) -> None:
    text = own_part(write_page(many, tmp_path))
    without = text.replace("https://vega.github.io/schema/vega-lite/", "")
    assert not re.search(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|src=\"(?!x)", without)
    assert "default-src 'none'" in text and text.count("<script") == 3 and len(text) < 200_000


def test_a_page_has_the_numbers(many: list[RecordedRun], tmp_path: Path) -> None:
    page = write_page(many, tmp_path, pending=3, read_warnings="left out: x\nleft out too: y")
    data = data_of(page)
    (view,) = data["views"]
    assert data["counts"] == {"finished": 24, "failed": 1, "pending": 3} and len(data["remarks"]) == 2
    assert [row["rank"] for row in view["rows"]] == [*range(1, 13), None]
    best = view["rows"][0]
    assert best["values"]["val/loss"] == pytest.approx(np.mean([0.0001, 0.0101]))
    loss, lr = view["curves"]
    assert (loss["name"], lr["name"]) == ("val/loss and train/loss", "lr")
    assert loss["records"][0]["epoch"] == [1, 2, 3, 4, 5]
    assert loss["records"][1]["mean"] == [1.0, 0.5, None, 0.2]
    assert view["rows"][0]["curve"] and not view["rows"][-1]["curve"]
    assert {response["key"] for response in view["responses"]} == {"optimizer.lr", "notes.name"}
    assert len(view["records"]) == 12 and view["importance"] and view["parallel"] and view["heatMap"]


def test_long_curves_are_sampled_and_many_curves_are_omitted(run: MakeRun, tmp_path: Path) -> None:
    runs = [run(float(i), {"a": i}, curves={"val/loss": [float(e) for e in range(5000)]}) for i in range(120)]
    (view,) = data_of(write_page(runs, tmp_path))["views"]
    assert sum(row["curve"] for row in view["rows"]) == 100 and "best 100 of 120" in view["curveNote"]
    assert len(view["curves"][0]["records"]) == 100
    epochs = view["curves"][0]["records"][0]["epoch"]
    assert len(epochs) <= 201 and (epochs[0], epochs[-1]) == (1, 5000)


def test_attention_maps_of_all_runs_and_views_are_bounded(run: MakeRun, tmp_path: Path) -> None:
    maps = {f"attention-val-{i}": bytes(1_000_000) for i in range(9)}
    runs = [
        replace(run(float(i), {"a": i, "datamodule.name": f"data-{i % 2}"}), read_attention=lambda: maps)
        for i in range(6)
    ]
    page = write_page(runs, tmp_path)
    assert sum(len(row["images"]) for view in data_of(page)["views"] for row in view["rows"]) == 4
    assert len(own_part(page)) < 6_000_000


@pytest.mark.parametrize(
    ("predictions", "is_shown"),
    [
        ({"classes": ["c"] * 200, "confusion": [[0] * 200] * 200}, True),
        ({"classes": ["c"] * 201, "confusion": [[0] * 201] * 201}, False),
        ({"true": [[0.5]] * 10_000, "predicted": [[0.5]] * 10_000}, True),
        ({"true": [[0.5]] * 10_001, "predicted": [[0.5]] * 10_001}, False),
        ({"true": [[0.5] * 10_001], "predicted": [[0.5] * 10_001]}, False),
    ],
)
def test_predictions_are_bounded(predictions: dict[str, Any], is_shown: bool, run: MakeRun, tmp_path: Path) -> None:
    (view,) = data_of(write_page([replace(run(1.0), load_predictions=lambda: predictions)], tmp_path))["views"]
    assert (view["rows"][0]["prediction"] is not None) == is_shown


def test_long_names_and_values_are_cut(run: MakeRun, tmp_path: Path) -> None:
    text = "x" * 1_000_000
    runs = [run(float(i), {text: text + str(i), "datamodule.name": text, "a": i}, name=text) for i in range(3)]
    assert len(own_part(write_page(runs, tmp_path))) < 200_000


def hostile_runs(run: MakeRun, text: str) -> list[RecordedRun]:
    """Return runs with a text in every place that the page shows."""
    confusion = {"classes": [text, "b"], "confusion": [[1, 2], [3, 4]]}
    runs = [
        run(
            0.1 * (place + 1),
            {text: f"{text}{place}", "b": place % 2},
            metric=f"val/{text}",
            curves={f"val/{text}": [1.0, 0.5], text: [0.1], **({"constructor": [1.0]} if place else {})},
            name=f"{text}-{place}",
        )
        for place in range(4)
    ]
    return [replace(single_run, load_predictions=lambda: confusion) for single_run in runs]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_names_are_escaped_in_the_page(text: str, run: MakeRun, tmp_path: Path) -> None:
    file = write_page(hostile_runs(run, text), tmp_path, read_warnings=text)
    page = own_part(file)
    assert page.count("<script") == 3 and page.count("</script") == 3 and not acts(page) and "<img" not in page
    (view,) = data_of(file)["views"]
    assert view["metric"] == f"val/{text}" and len(view["rows"]) == 4


def test_the_policy_allows_only_the_scripts_of_the_page(many: list[RecordedRun], tmp_path: Path) -> None:
    page = write_page(many, tmp_path).read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r'<script type="module">(.*?)</script>', page, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == " ".join(
        f"'sha256-{digest}'" for digest in digests
    )
    assert rules["img-src"] == "data:" and "connect-src" not in rules


@pytest.mark.parametrize("name", ["report.html", ".report.html.partial"])
def test_a_link_at_the_path_of_the_page_is_not_followed(name: str, many: list[RecordedRun], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / name).symlink_to(tmp_path / "mine")
    assert not write_page(many, tmp_path / "into").is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"
