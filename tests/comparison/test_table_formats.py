"""Exports have the numbers, and escape any text."""

import csv
import io
import json
import re

import pytest

from src.comparison.table_formats import WRITERS, to_csv, to_json, to_latex, to_markdown
from src.comparison.view import View, views
from src.core.console import echo
from tests.comparison.conftest import MakeRun
from tests.core.test_console import acts
from tests.core.test_escape import tokens_of
from tests.hostile import HOSTILE

NASTY = [
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(A1)",
    "a|b",
    "a,b",
    'quo"te',
    "two\nlines",
    "<script>alert(1)</script>",
    r"\input{x}",
    "100% & $x_1^2$ #{}~",
    "`code`",
    "[link](http://x)",
]


@pytest.fixture
def table(run: MakeRun) -> list[tuple[View, list[str]]]:
    runs = [
        run(0.1 * (place + 1), {"notes": text, "optimizer.lr": 0.1 / 3, "seed": seed})
        for place, text in enumerate(NASTY)
        for seed in (0, 1)
    ]
    (view,) = views(runs)
    return [(view, ["notes", "optimizer.lr", "val/loss", "runs", "run"])]


def test_csv_has_full_precision_and_no_formula(table: list[tuple[View, list[str]]]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["notes"].lstrip("'") for row in rows] == [json.dumps(n) if "\n" in n else n for n in NASTY]
    texts = [cell for row in rows for cell in row.values() if cell not in ("+1", "-1")]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in texts), "a number is no formula"
    assert [float(row["mean"]) for row in rows] == pytest.approx([0.1 * (place + 1) for place in range(len(NASTY))])
    assert all(float(row["optimizer.lr"]) == 0.1 / 3 and row["runs"] == "2" for row in rows)


def test_a_negative_number_is_not_escaped(run: MakeRun) -> None:
    (view,) = views([run(-0.25), run(-0.5, {"a": -3})])
    rows = list(csv.DictReader(io.StringIO(to_csv([(view, ["a"])]))))
    assert [(row["mean"], row["a"]) for row in rows] == [("-0.5", "-3"), ("-0.25", "")]


def test_json_has_every_run(table: list[tuple[View, list[str]]]) -> None:
    (entry,) = json.loads(to_json(table))
    assert entry["metric"] == "val/loss" and entry["mode"] == "min"
    assert [row["notes"] for row in entry["rows"]] == NASTY
    assert all(len(row["repetitions"]) == 2 for row in entry["rows"])
    assert entry["rows"][0]["p"] is None and entry["rows"][0]["rank"] == 1


def test_markdown_keeps_its_columns(table: list[tuple[View, list[str]]]) -> None:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len({len(row) for row in cells}) == 1 and len(lines) == len(NASTY) + 2
    text = to_markdown(table)
    assert "<script" not in text.replace(r"\<script", "") and "](" not in text.replace(r"\](", "")


def test_latex_has_no_command_of_a_value(table: list[tuple[View, list[str]]]) -> None:
    text = to_latex(table)
    commands = {
        "begin",
        "end",
        "toprule",
        "midrule",
        "bottomrule",
        "textbf",
        "textbackslash",
        "textasciitilde",
        "usepackage",
    }
    commands |= {"textasciicircum", "textless", "textgreater", "pm", "approx", "dots"}
    assert set(re.findall(r"\\([a-z]+)", text)) <= commands
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
    assert len(rows) == len(NASTY) and len(columns) == 1
    assert not re.search(r"(?<!\\)[#%]", body) and body.count("{") == body.count("}")
    assert body.count(r"\textbf{") == columns.pop() + 1, "the best row alone is bold"


def test_every_format_accepts_runs_without_a_value(run: MakeRun) -> None:
    failed_views = views([run(None, status="failed"), run(None, {"a": 1}, status="running")])
    for writer in WRITERS.values():
        assert "failed" in writer([(view, view.columns) for view in failed_views])


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_names_are_text_in_every_format(text: str, run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    (view,) = views([run(0.5, {text: text, "a": 1}, name=text), run(0.6, {text: "b", "a": 2})])
    for name, writer in WRITERS.items():
        exported = writer([(view, [text, "a", "run"])])
        echo(exported, end="")
        assert not acts(capsys.readouterr().out)
        if name == "csv":
            rows = list(csv.reader(io.StringIO(exported, newline="")))
            assert len(rows) == 3 and {len(row) for row in rows} == {10}
            cells = [cell for row in rows for cell in row]
            assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
        elif name == "json":
            entry = json.loads(exported)[0]["rows"][0]
            assert entry[text] == (None if "/" in text else text), "a name with a slash is a metric"
            assert entry["run"] == text
        elif name == "markdown":
            tokens = tokens_of(exported)
            kinds = {token.type for token in tokens}
            assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "s_open", "code_inline"}
            assert sum(token.type == "td_open" for token in tokens) == 10
        else:
            assert not set(re.findall(r"\\([a-z]+)", exported)) & {"input", "write", "frac"}
            bare = re.sub(r"\\[{}]", "", exported)
            assert bare.count(r"\\") == 3 and bare.count("{") == bare.count("}")
