"""One escaping function per output format, for text that may come from someone else.

A class name, a tag, or an error message from a record may contain anything, such as a terminal escape sequence, a spreadsheet
formula, or a script. Each function returns text that the format shows literally.
"""

import html as _html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters except tab and line feed, those that reorder text, and single surrogates."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Starts of a formula, also in full width."""
_INNER_FORMULA = re.compile("([;\t\n])(?=\\s*[=+@\uff1d\uff0b\uff0d\uff20-])")
"""A separator within a cell before the start of a formula: many spreadsheets separate cells by semicolons or tabs instead."""
_MARKDOWN = re.compile(r"([\\`*{}\[\]()#!|~$>@]|(?<!\w)[_+-]|[_+-](?!\w)|:(?=/)|(?<=[wW])\.)")
"""Characters with a meaning in Markdown, and those of texts that GitHub links: ``http://``, ``www.`` and ``name@host``."""
_NO_CODE = re.compile(r"\\\||<|\]\(")
"""Text that is not allowed in a code span: parsers disagree whether the bar in ``\\\\|`` ends a cell, and some interpret HTML
and links.
"""

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "…": r"\dots{}",
}


def _shown(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def terminal(text: object) -> str:
    """Return text whose control characters are replaced by escapes such as ``\\u001b``, except tabs and line feeds.

    Escaped JSON is the same JSON.
    """
    return _CONTROL.sub(_shown, str(text))


def line(text: object) -> str:
    """Return `terminal` text on one line."""
    return terminal(text).replace("\n", "\\n").replace("\t", " ")


def printable(text: str) -> str:
    """Return text that has a form in UTF-8: single surrogates, as in file names of other encodings, are ``\\udcff``."""
    return text.encode(errors="backslashreplace").decode()


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file that a spreadsheet does not interpret as a formula.

    Text that begins like a formula, at its start or after a semicolon, tab or line feed, gets an apostrophe there, which marks
    literal text in spreadsheets. Numbers are unchanged. Control characters other than tab and line feed are replaced by escapes
    such as ``\\u000d``.
    """
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        escaped = _INNER_FORMULA.sub(r"\1'", terminal(value))  # a carriage return would end the row
        return f"'{escaped}" if value.lstrip(" ").startswith(_FORMULA) else escaped
    return value.strip()


def html(text: object) -> str:
    """Return text for an element or a quoted attribute of an HTML page."""
    return _html.escape(terminal(text), quote=True)


def json_in_html(value: Any) -> str:
    """Return JSON for a ``<script>`` element, which can neither end the element nor begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return terminal(text)


def markdown(text: object) -> str:
    """Return text that Markdown shows literally, also in a table cell: without HTML, links or emphasis."""
    plain = terminal(text).replace("\n", " ").replace("\t", " ")
    return _MARKDOWN.sub(r"\\\1", plain.replace("&", "&amp;").replace("<", "&lt;"))


def markdown_code(text: object) -> str:
    """Return text as a code span of Markdown, also in a table cell; use `markdown` for text that is unsafe in a code span."""
    if _NO_CODE.search(str(text)):
        return markdown(text)
    plain = terminal(text).replace("\n", " ").replace("\t", " ").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{space}{plain}{space}{fence}" if plain else ""


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown from cells that are already escaped."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def mathtext(text: object, max_length: int = 200) -> str:
    """Return text that matplotlib draws literally, not as a formula, and truncated to fit into a figure.

    Args:
        text: the text.
        max_length: in characters.
    """
    plain = terminal(text)
    return (plain if len(plain) <= max_length else f"{plain[: max_length - 1]}…").replace("$", r"\$")


def latex(text: object) -> str:
    """Return text that LaTeX typesets literally."""
    return "".join(_LATEX.get(character, character) for character in terminal(text).replace("\n", " "))
