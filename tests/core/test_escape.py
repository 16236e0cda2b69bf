"""Each format shows escaped text literally, as its own parser reads it."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from matplotlib.figure import Figure

from src.core import escape
from tests.core.test_console import acts
from tests.hostile import HOSTILE

ORDINARY = ("", "mlp", "0.25", "1e-05", "a b", "naïve – ±1 µs", "x_1", "val/loss", "-3", "C:\\data", "two  spaces")


def visible(text: str) -> str:
    """Return text on one line, as a reader of Markdown or HTML sees it."""
    return " ".join(escape.terminal(text).split())


def spreadsheet_rows(text: str) -> list[list[str]]:
    """Return the rows of a CSV file as a program that ends rows at any line ending reads them."""
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY), ids=ascii)
def test_a_csv_cell_is_one_cell_and_not_a_formula(text: str) -> None:
    cell = escape.csv_cell(text)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([cell, "second"])
    assert spreadsheet_rows(out.getvalue()) == [[cell, "second"]]
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\n", "\r")) or float(cell) <= 0
    assert not acts(cell) and cell.replace("'", "") == escape.terminal(text).replace("'", "")


@pytest.mark.parametrize("separator", [";", "\t", "\n", "; "])
@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@A1", " =1", "\uff1d1", "\uff0d1"])
def test_a_part_of_a_csv_cell_is_not_a_formula(separator: str, formula: str) -> None:
    for part in re.split(r"[;\t\n]", escape.csv_cell(f"a{separator}{formula}{separator}b")):
        assert part.lstrip()[0] in "a'b"
    assert escape.csv_cell(f"a{separator}b-c") == f"a{separator}b-c"


@pytest.mark.parametrize("value", [None, 1, -1.5, float("nan"), True])
def test_a_number_stays_a_number_in_csv(value: Any) -> None:
    assert escape.csv_cell(value) is value


class _Elements(HTMLParser):
    """Collects elements and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY), ids=ascii)
def test_html_is_text_in_elements_and_attributes(text: str) -> None:
    page = _Elements()
    page.feed(f'<p title="{escape.html(text)}">{escape.html(text)}</p>')
    page.close()
    assert page.found == [("p", [("title", escape.terminal(text))])] and "".join(page.text) == escape.terminal(text)


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY), ids=ascii)
def test_json_in_a_page_is_the_same_json(text: str) -> None:
    made = escape.json_in_html({text: [text]})
    assert json.loads(made) == {text: [text]}
    assert not set("<>&") & set(made) and not acts(made)


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a Markdown text, those within others too."""
    found: list[Token] = []
    waiting = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    while waiting:
        token = waiting.pop(0)
        found.append(token)
        waiting = [*(token.children or []), *waiting]
    return found


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY), ids=ascii)
def test_markdown_is_text_in_paragraphs_headings_lists_and_tables(text: str) -> None:
    plain, code = escape.markdown(text), escape.markdown_code(text)
    table = f"| a | b |\n|---|---|\n| {plain} | {code} |\n| {code} | {plain} |\n"
    page = f"# x {plain}\n\nx {plain} x {code}\n\n- x: {code}\n\n{table}"
    found = tokens_of(page)
    kinds = {token.type for token in found}
    assert not kinds & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "em_open",
        "strong_open",
        "s_open",
        "hardbreak",
    }
    assert sum(token.type == "td_open" for token in found) == 4 and not acts(page)
    cells = [found[place + 1] for place, token in enumerate(found) if token.type == "td_open"]
    shown = [visible("".join(part.content for part in cell.children or [])) for cell in cells]
    assert set(shown) == {visible(text)}
    for raw in ("](javascript:", "](http", "http://", "https://", "www.", "mail@", "<script", "<img", "<b>"):
        assert raw not in plain


@pytest.mark.parametrize("text", ORDINARY, ids=ascii)
def test_ordinary_text_stays_readable_in_markdown(text: str) -> None:
    assert re.sub(r"\\(?=[\\-])", "", escape.markdown(text)) == text


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY), ids=ascii)
def test_latex_has_no_command_of_the_text(text: str) -> None:
    made = escape.latex(text)
    known = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|dots)\{\}|\$\\pm\$|\$\\approx\$"
    rest = re.sub(rf"{known}|\\[{{}}$&#%_]|\{{[\[\]]\}}", "", made)
    assert not set(rest) & set("\\{}$&#%_^~[]") and "\n" not in made and not acts(made)


@pytest.mark.parametrize("text", (*HOSTILE, *ORDINARY, "x" * 10**6), ids=lambda text: ascii(text[:40]))
@pytest.mark.filterwarnings("ignore:.*Glyph:UserWarning")
def test_a_figure_draws_text(text: str) -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.set_title(f"{escape.mathtext(text)} and {escape.mathtext(text)}")
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    _, is_formula = axes.title._preprocess_math(axes.title.get_text())  # type: ignore[attr-defined]
    assert not is_formula and len(axes.title.get_text()) < 1000
