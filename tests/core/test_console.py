"""Printed and logged text, and tables, never control the terminal."""

import argparse
import ast
import json
import logging
import subprocess
import sys
import warnings
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from src.cli.hydra_app import report_user_errors
from src.core.console import LogFormatter, Parser, echo
from src.core.errors import UserError
from src.core.tables import new_table, show
from src.run_store.train_log import log_to
from tests.conftest import ROOT
from tests.hostile import HOSTILE

ALLOWED = {
    ("src/core/console.py", "print"): "echo escapes what it prints",
    ("src/core/console.py", "ArgumentParser"): "Parser escapes its errors",
    ("src/core/console.py", "Formatter"): "LogFormatter escapes",
    ("src/cli/compare.py", "print"): "compare --watch clears the terminal",
    ("src/core/console.py", "Table"): "new_table escapes its cells",
}
"""Calls that show text as it is, with the reason."""

_PLAIN = ("print", "ArgumentParser", "Formatter", "Table")
_MARKUP = ("Console", "TextColumn")


def acts(text: str) -> bool:
    """Return whether a terminal does something else with a text than show it."""
    return any(
        (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c in "\u061c\u200e\u200f\u202e\u2066\u2069"
        for c in text
    )


def calls(file: Path) -> list[tuple[str, ast.Call]]:
    """Return the calls in a module with the last part of the called name."""
    found = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [(getattr(node.func, "id", getattr(node.func, "attr", "")), node) for node in found]


@pytest.mark.parametrize("file", sorted((ROOT / "src").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_prints_unescaped_text(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    for called, node in calls(file):
        if isinstance(node.func, ast.Attribute) and called in ("print", "Table"):
            continue  # of a console of Rich, and a table of W&B
        assert called not in _PLAIN or (name, called) in ALLOWED, (
            f"{name}:{node.lineno}: {called}(…); see src/core/console"
        )
        if called in _MARKUP:
            off = [
                keyword
                for keyword in node.keywords
                if keyword.arg == "markup" and getattr(keyword.value, "value", 1) is False
            ]
            assert off, f"{name}:{node.lineno}: {called}(…) without markup=False"
        writes = called in ("write", "writelines") and ast.unparse(node.func).startswith(("sys.stdout", "sys.stderr"))
        assert not writes, f"{name}:{node.lineno}: use src.core.console.echo"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_printed_text_has_no_effect_on_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(text, "value", title=text)
    table.add_row(text, "1")
    show(table)
    echo(text, text)
    echo(json.dumps({text: [text]}, ensure_ascii=False))
    show(text)
    with pytest.raises(SystemExit), report_user_errors():
        raise UserError(f"{text}: wrong")
    with pytest.raises(SystemExit):
        Parser("x").parse_args([text, f"--{text}"])
    printed = capsys.readouterr()
    assert not acts(printed.out + printed.err) and len(printed.err.splitlines()) > 1
    (line,) = [line for line in printed.out.splitlines() if line.startswith('{"') or line.startswith("{'")][:1]
    assert json.loads(line) == {text: [text]}


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_table_on_a_terminal_shows_markup_as_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.core.console.on_terminal", lambda: True)
    table = new_table("name", title=text)
    table.add_row(text)
    table.add_row(Text("last", style="bold"))
    out = StringIO()
    Console(file=out, force_terminal=True, color_system=None, width=200).print(table)
    shown = [line.strip() for line in out.getvalue().replace("\x1b[3m", "").replace("\x1b[0m", "").splitlines()]
    assert not acts(" ".join(shown).replace("\x1b[1m", "")), shown
    if "[" in text and "\x1b" not in text:
        assert sum(text.split("\n")[0] in line for line in shown) == 2


# pytest-xdist cannot send what was logged to its main process if it has a surrogate.
@pytest.mark.parametrize("text", [text for text in HOSTILE if "\ud800" not in text], ids=ascii)
def test_logs_and_warnings_are_escaped(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with report_user_errors(), log_to(tmp_path / "train.log"):
        logging.getLogger("src.test").warning("read %s", text)
        warnings.warn(text, stacklevel=1)
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("src.test").exception(text)
    printed, logged = capsys.readouterr().err, (tmp_path / "train.log").read_text(encoding="utf-8")
    assert printed and logged and not acts(printed + logged)


def test_unhandled_errors_are_escaped() -> None:
    program = """
import logging, warnings
from src.cli.hydra_app import report_user_errors
text = "\\x1b]0;x\\x07\\x9b31m\\u202e"
with report_user_errors():
    logging.getLogger("a").warning(text)
    warnings.warn(text)
    raise ValueError(text)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not acts(done.stdout + done.stderr)
    assert done.stderr.count("\\u001b]0;x") == 3 and "Traceback" in done.stderr


def test_a_formatter_and_a_parser_keep_ordinary_text(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "naïve – 1 µs\tx", (), None)
    assert LogFormatter("%(message)s").format(record) == "naïve – 1 µs\tx"
    assert isinstance(Parser("x").add_subparsers().add_parser("y"), argparse.ArgumentParser)
    echo("a", 1, sep="", end="!")
    assert capsys.readouterr().out == "a1!"
