"""The page in a headless Chromium: content, keyboard, mouse, phone and dark mode."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from src.run_store.reader import read_runs
from src.run_store.recorded_run import RecordedRun
from tests.comparison.browser import CHROMIUM, DRIVER, Browser, browser
from tests.comparison.conftest import NASTY, MakeRun, WriteRun, write_page
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


def test_it_shows_text_as_text(page: Browser) -> None:
    assert page.log() == [], "no error and no network request"
    assert page.run("return document.title") == "Comparison of lr"
    assert page.run("return document.querySelectorAll('main img, main b').length") == 0
    assert NASTY in page.run("return document.querySelector('tbody').textContent")
    assert page.run("return document.querySelectorAll('#table tbody tr').length") == 13
    assert page.run("return document.getElementById('top').textContent").count("2 pending") == 1


def test_hostile_names_are_text_and_nothing_runs(run: MakeRun, tmp_path: Path, window: Browser) -> None:
    for place, text in enumerate(HOSTILE):
        window.open(write_page(hostile_runs(run, text), tmp_path / str(place), read_warnings=text))
        assert window.log() == [], text
        assert window.run("return document.querySelectorAll('#table tbody tr').length") == 4
        assert window.run("return document.querySelectorAll('script').length") == 2
        assert window.run("return document.querySelectorAll('main img, main b, a:not([href^=\"#\"])').length") == 0


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
        if name.startswith("Heat map"):
            break
        assert style != "none" and width >= 2, f"no focus ring on {name}"
    text = "\n".join(seen)
    assert all(
        part in text
        for part in ("Skip to", "Filter rows", "rank", "Curve of", "Metric", "Learning curves:", "Heat map")
    )


def test_it_shows_a_curve_under_the_mouse_and_by_arrows(page: Browser) -> None:
    frame = page.run(
        "const c = document.querySelector('.chart'); c.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const r = c.getBoundingClientRect();"
        "return new Promise(f => setTimeout(() => f([r.left, r.top, r.width, r.height]), 200))"  # a scroll hides the tip
    )
    page.move(frame[0] + frame[2] - 12, frame[1] + frame[3] / 2)
    tip = page.run("const t = document.getElementById('tip'); return [t.hidden, t.textContent]")
    assert tip[0] is False and tip[1].startswith("epoch 5: val/loss 0.")
    page.run("document.querySelector('.chart').focus()")
    page.press("escape", "left", "left")
    assert page.run("return document.getElementById('tip').textContent").startswith("epoch 4: val/loss")
    page.press("escape")
    assert page.run("return document.getElementById('tip').hidden")


def test_it_toggles_runs(page: Browser) -> None:
    shown = "return [...document.querySelectorAll('.chart .curve')].length"
    assert page.run(shown) == 8
    page.run("document.querySelector('tbody input').click()")
    assert page.run(shown) == 7
    page.run("document.querySelector('.legend button').click()")
    assert page.run(shown) == 6
    page.run("[...document.querySelectorAll('#curves button')].find(b => b.textContent == 'all').click()")
    assert page.run(shown) == 12
    page.run("const s = document.querySelector('#curves select'); s.value = 'lr'; s.dispatchEvent(new Event('change'))")
    assert "lr by epoch of 12 rows" in page.run("return document.querySelector('.chart svg').ariaLabel")


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
    assert window.run("return document.querySelectorAll('.chart .curve').length") == 7
    assert window.run("return document.querySelectorAll('th[aria-sort]').length") == 1
    window.open(write_page(many, tmp_path))


def test_it_shows_predictions_and_attention_maps(write_run: WriteRun, window: Browser, tmp_path: Path) -> None:
    folder = write_run("a")
    matrix = {"classes": [NASTY, "b"], "confusion": [[5, 2], [0, 7]]}
    (folder / "predictions.json").write_text(json.dumps(matrix))
    (folder / "plots").mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "plots" / "attention-val-1-encoder.png")
    window.open(write_page(read_runs(folder), tmp_path))
    cells = window.run("return [...document.querySelectorAll('#predictions td')].map(c => c.textContent)")
    assert cells[1:] == ["5", "2", "", "7"] and NASTY in window.run(
        "return document.querySelector('#predictions').textContent"
    )
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
  const style = getComputedStyle(node), svg = node instanceof SVGElement;
  const ink = rgba(svg ? style.fill : style.color), paper = behind(svg ? node.ownerSVGElement.parentElement : node);
  const [more, less] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (more + 0.05) / (less + 0.05);
  if (ratio < 4.5) weak.push(`${node.tagName} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
}
return weak;
"""
)


@pytest.mark.parametrize("ends", [(1e16, 1e16 + 2), (0, 5e-324), (-1.7e308, 1.7e308), (1, 1 + 2**-52)])
def test_numbers_without_any_between_them_have_ticks(page: Browser, ends: tuple[float, float]) -> None:
    """A step of the axis that changes no number would go on for ever."""
    low, high = map(repr, ends)
    for logarithmic in ("false", *(["true"] if ends[0] > 0 else [])):
        assert page.run(f"return ticks({low}, {high}, {logarithmic}, 400).length") < 100
