"""The page in a headless Chromium: content, keyboard, mouse, phone and dark mode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.comparison.filters import parse_filters
from src.comparison.view import views
from src.run_store.reader import read_runs
from src.run_store.recorded_run import RecordedRun
from tests.comparison.browser import CHROMIUM, DRIVER, Browser, browser
from tests.comparison.conftest import NASTY, MakeRun, WriteRun, write_page
from tests.comparison.test_chart_data import EXTREMES
from tests.comparison.test_page import hostile_runs
from tests.hostile import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(many: list[RecordedRun], tmp_path: Path, window: Browser) -> Browser:
    window.size(1280, 900)
    window.dark(False)
    window.open(write_page(many, tmp_path, pending=2))
    return window


def draw_all(page: Browser) -> None:
    """Scroll through the page and wait until all its charts are drawn."""
    page.run("""
        return (async () => {
          for (const node of document.querySelectorAll(".chart")) {
            node.scrollIntoView({ behavior: "instant" });
            const ready = () => node.chart.view && node.chart.visible && !node.chart.stale;
            for (let i = 0; i < 500 && !ready(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
            await node.chart.view.runAsync();
          }
          scrollTo({ top: 0, behavior: "instant" });
        })();
    """)


def chart_data(page: Browser, label: str, dataset: str) -> list[dict[str, Any]]:
    """Return the records that a chart shows.

    Args:
        page: the window.
        label: beginning of the chart's label.
        dataset: name of the data set.
    """
    return page.run(CHART + "return chart.view.data(arguments[1]).map((record) => ({ ...record }));", label, dataset)


CHART = """
    const chart = [...document.querySelectorAll(".chart")].find((node) => node.ariaLabel.startsWith(arguments[0])).chart;
"""
WAIT = "return new Promise((resolve) => setTimeout(resolve, 400));"


def test_it_shows_text_as_text(page: Browser) -> None:
    assert page.log() == [], "no error and no network request"
    assert page.run("return document.title") == "Comparison of lr"
    draw_all(page)
    assert page.log() == []
    assert page.run("return document.querySelectorAll('main img, main b').length") == 0
    assert NASTY in page.run("return document.querySelector('tbody').textContent")
    assert page.run("return document.querySelectorAll('#table tbody tr').length") == 13
    assert page.run("return document.getElementById('top').textContent").count("2 pending") == 1


def test_hostile_names_are_text_and_nothing_runs(run: MakeRun, tmp_path: Path, window: Browser) -> None:
    for place, text in enumerate(HOSTILE):
        window.open(write_page(hostile_runs(run, text), tmp_path / str(place), read_warnings=text))
        draw_all(window)
        assert window.log() == [], text
        assert window.run("return document.querySelectorAll('#table tbody tr').length") == 4
        assert window.run("return document.querySelectorAll('script').length") == 3
        assert (
            window.run(
                "return document.querySelectorAll('main img, main b, a:not([href^=\"#\"]):not([download])').length"
            )
            == 0
        )


def column(page: Browser, number: int) -> list[str]:
    """Return the cells of a column of the ranking, from 1, in the rows that are not filtered out."""
    cells = "`#table tbody tr:not([hidden]) td:nth-child(${arguments[0]})`"
    return page.run(f"return [...document.querySelectorAll({cells})].map(c => c.textContent)", number)


def test_it_sorts_and_filters_with_the_keyboard(page: Browser) -> None:
    heads = page.run("return [...document.querySelectorAll('#table thead th')].map(h => h.textContent)")
    lr = heads.index("lr") + 1
    page.run("document.querySelectorAll('#table thead button')[arguments[0]].focus()", lr - 2)
    page.press("enter")
    rising = [float(cell) for cell in column(page, lr)]
    assert rising == sorted(rising) and len(rising) == 13
    page.press("enter")
    assert [float(cell) for cell in column(page, lr)] == rising[::-1]
    assert (
        page.run("return document.querySelectorAll('#table thead th')[arguments[0]].ariaSort", lr - 1) == "descending"
    )
    page.run("document.querySelector('input[type=search]').focus()")
    page.press(*"plain")
    assert len(column(page, lr)) == 6 and "6 of 13 rows" in page.run(
        "return document.querySelector('#table .bar').textContent"
    )


def test_every_control_is_reached_by_tab(page: Browser) -> None:
    seen = []
    for _ in range(80):
        page.press("tab")
        name, style, width = page.run(FOCUSED)
        seen.append(name)
        if name.startswith("Two hyper"):
            break
        assert style != "none" and width >= 2, f"no focus ring on {name}"
    text = "\n".join(seen)
    assert all(
        part in text
        for part in ("Skip to", "Filter rows", "rank", "Curve of", "Metric", "val/loss and train/loss by", "Two hyper")
    )


def test_it_shows_a_point_under_the_mouse_and_by_arrows(page: Browser) -> None:
    draw_all(page)
    frame = page.run(
        "const c = document.querySelector('#curves canvas'); c.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const r = c.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]"
    )
    for x in (12, 14):
        page.move(frame[0] + frame[2] - x, frame[1] + frame[3] / 3)
        page.run(WAIT)
    assert "epoch 5: 0." in page.run("return document.getElementById('vg-tooltip-element').textContent")
    assert page.run("return document.querySelectorAll('tbody tr.lit').length") == 1
    page.run("document.querySelector('#curves .chart').focus()")
    page.press("escape", "left", "left")
    page.run(WAIT)
    status = page.run("return document.querySelector('#curves [role=status]').textContent")
    assert status.startswith("epoch 4: 0.") and "1. lr=0.001" in status
    assert page.run(CHART + "return chart.view.signal('highlighted_epoch')", "val/loss and") == 4
    page.press("down")
    assert ", 2. lr=0.01" in page.run("return document.querySelector('#curves [role=status]').textContent")
    page.press("escape")
    assert page.run("return document.querySelector('#curves [role=status]').textContent") == ""


def test_it_toggles_curves(page: Browser) -> None:
    def shown() -> int:
        page.run(WAIT)
        return len({record["row"] for record in chart_data(page, "val/loss and", "curves")})

    draw_all(page)
    assert shown() == 8
    page.run("document.querySelector('tbody input').click()")
    assert shown() == 7
    page.run("[...document.querySelectorAll('#curves button')].find(b => b.textContent == 'all').click()")
    assert shown() == 12
    page.run("document.querySelector('#curves input').click()")
    page.run(WAIT)
    assert page.run(CHART + "return chart.view.scale('y').type", "val/loss and") == "linear"
    page.run("const s = document.querySelector('#curves select'); s.value = 1; s.dispatchEvent(new Event('change'))")
    assert page.run("return document.querySelector('#curves .chart').ariaLabel").startswith("lr by epoch")


CONDITIONS = [
    "optimizer.lr=0.01",
    "lr=0.01",
    "lr==1e-2",
    "lr!=0.01",
    "lr<0.1",
    "lr>=0.1 lr<5",
    "lr=0.01,3",
    "name=plain",
    "'name=pl*' val/loss<=0.5",
    "name!=pl?in",
    "model=mlp",
    "model!=mlp",
    "status=failed",
    "status!=failed",
    "parameters=100",
    "name=[p]lain",
]


@pytest.mark.parametrize("text", CONDITIONS)
def test_the_filter_is_that_of_the_command_line(text: str, page: Browser, many: list[RecordedRun]) -> None:
    """A row is shown if its runs match the conditions."""
    page.run(FILTER, text)
    names = page.run(
        "return [...document.querySelectorAll('#table tbody tr:not([hidden]) td:last-child')].map(c => c.textContent)"
    )
    (view,) = views(many)
    filters = parse_filters(text, many)
    assert sorted(names) == sorted(
        row.best.name for row in view.rows if all(each.matches(row.best) for each in filters)
    )


FILTER = """
    const input = document.querySelector("input[type=search]");
    input.value = arguments[0];
    input.dispatchEvent(new Event("input"));
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [("lr=", "a condition is"), ("rate=1", "there is no such key"), ("lr<small", "compares numbers")],
)
def test_an_invalid_filter_is_reported(text: str, message: str, page: Browser) -> None:
    page.run(FILTER, text)
    assert message in page.run("return document.querySelector('[role=alert]').textContent")
    page.run(FILTER, "plain")
    assert page.run("return document.querySelector('[role=alert]').hidden")


def test_a_filter_and_a_rectangle_apply_to_all_charts(page: Browser) -> None:
    draw_all(page)
    page.run(FILTER, "lr<0.05")
    page.run(WAIT)
    draw_all(page)
    for label, dataset in (
        ("val/loss and", "curves"),
        ("val/loss against", "rows"),
        ("Parallel", "rows"),
        ("Two", "rows"),
    ):
        assert len({record["row"] for record in chart_data(page, label, dataset)}) == 4, label
    page.run(FILTER, "")
    canvas = "const c = document.querySelectorAll('#hyperparameters canvas')[1];"
    page.run(canvas + "c.scrollIntoView({block: 'center', behavior: 'instant'})")
    page.run(WAIT)
    frame = page.run(canvas + "const r = c.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]")
    page.drag((frame[0] + 60, frame[1] + 20), (frame[0] + frame[2] / 2, frame[1] + frame[3] - 50))
    page.run(WAIT)
    rows = page.run("return document.querySelectorAll('#table tbody tr:not([hidden])').length")
    assert 0 < rows < 12
    draw_all(page)
    assert len(chart_data(page, "Parallel", "rows")) == rows
    page.run(
        "[...document.querySelectorAll('#table button')].find(b => b.textContent == 'clear the selection').click()"
    )
    page.run(WAIT)
    assert page.run("return document.querySelectorAll('#table tbody tr:not([hidden])').length") == 13


@pytest.mark.parametrize("dark", [False, True])
def test_it_has_contrast(page: Browser, dark: bool) -> None:
    """The contrast of every text is at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    page.dark(dark)
    page.run("return new Promise(r => setTimeout(r, 100))")
    weak_texts = page.run(CONTRAST)
    assert weak_texts == []
    light = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(15, 19, 24)") == dark


def test_it_fits_a_phone(page: Browser, many: list[RecordedRun], tmp_path: Path) -> None:
    page.size(375, 700, phone=True)
    page.open(write_page(many, tmp_path))
    assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [375, 375]
    small_texts = page.run(SMALL)
    assert small_texts == []
    page.screenshot(tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as image:
        assert image.width == 375 and len(image.convert("L").getcolors()) > 50


def test_it_restores_its_state_after_a_reload(many: list[RecordedRun], tmp_path: Path, window: Browser) -> None:
    window.open(write_page(many, tmp_path, reload=0.5))
    window.run("document.querySelector('tbody input').click()")
    window.run("document.querySelectorAll('#table thead button')[2].click(); window.old = true")
    for _ in range(100):
        window.run("return new Promise(r => setTimeout(r, 100))")
        if window.run("return window.old !== true"):
            break
    else:
        pytest.fail("the page was not reloaded")
    draw_all(window)
    assert len({record["row"] for record in chart_data(window, "val/loss and", "curves")}) == 7
    assert window.run("return document.querySelectorAll('th[aria-sort]').length") == 1
    window.open(write_page(many, tmp_path))


def test_it_shows_predictions_and_attention_maps(write_run: WriteRun, window: Browser, tmp_path: Path) -> None:
    folder = write_run("a")
    matrix = {"classes": [NASTY, "b"], "confusion": [[5, 2], [0, 7]]}
    (folder / "predictions.json").write_text(json.dumps(matrix))
    (folder / "plots").mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "plots" / "attention-val-1-encoder.png")
    window.open(write_page(read_runs(folder), tmp_path))
    draw_all(window)
    records = chart_data(window, "Predictions", "confusion")
    assert [record["count"] for record in records] == [[5, 2], [0, 7]]
    assert "12 of 14 correct" in window.run("return document.querySelector('#predictions').textContent")
    assert window.run("return document.querySelector('#predictions img').naturalWidth") == 40
    assert window.log() == []
    for dark in (False, True):
        window.dark(dark)
        window.run("return new Promise(r => setTimeout(r, 100))")
        assert window.run(CONTRAST) == []


FOCUSED = """
const node = document.activeElement, style = getComputedStyle(node);
return [node.getAttribute("aria-label") || node.textContent.slice(0, 40), style.outlineStyle, parseFloat(style.outlineWidth)];
"""

TEXTS = """
const texts = [...document.querySelectorAll("body *")].filter(
  (node) => [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) &&
    !node.closest("noscript, script, style, [hidden], option"));
"""

SMALL = TEXTS + "return texts.filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11.5).map((e) => e.textContent);"

CONTRAST = (
    TEXTS
    + """
const channel = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(text) {
  pixel.clearRect(0, 0, 1, 1);
  pixel.fillStyle = text;
  pixel.fillRect(0, 0, 1, 1);
  return pixel.getImageData(0, 0, 1, 1).data;
}
function behind(node) {
  for (let e = node; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255];
}
const weak = [];
for (const node of texts) {
  const ink = rgba(getComputedStyle(node).color), paper = behind(node);
  const [more, less] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (more + 0.05) / (less + 0.05);
  if (ratio < 4.5) weak.push(`${node.tagName} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
}
return weak;
"""
)


@pytest.mark.parametrize("ends", EXTREMES)
def test_extreme_numbers_are_drawn(ends: tuple[float, float], run: MakeRun, tmp_path: Path, window: Browser) -> None:
    runs = [
        run(value, {"a": value, "b": place % 3}, curves={"val/loss": [*ends, value]})
        for place, value in enumerate((*ends, *ends, ends[0] / 2 + ends[1] / 2))
    ]
    window.open(write_page(runs, tmp_path))
    draw_all(window)
    assert window.log() == []
