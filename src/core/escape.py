"""One escaping function per output format, for text that may come from someone else.

A class name, a tag, or an error text from a record can hold anything: the sequence that retitles a terminal, a spreadsheet
formula, a script. Each function returns text that the format shows literally.
"""

import html as _html
import json
import re
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters except tab and line feed, those that reorder text, and single surrogates."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN = re.compile(r"([\\`*{}\[\]()#!|~$>@]|(?<!\w)[_+-]|[_+-](?!\w)|:(?=/)|(?<=[wW])\.)")
"""What has a meaning in Markdown, and what makes a link of plain text on GitHub: ``http://``, ``www.`` and ``name@host``."""
_NO_CODE = re.compile(r"\\\||<|\]\(")
"""What cannot be in a code span: parsers disagree whether the bar in ``\\\\|`` ends a cell, and some find HTML and links."""

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
    """Return text whose control characters are visible as ``\\u001b``; tabs and line feeds are kept.

    JSON that was escaped in this way is the same JSON.
    """
    return _CONTROL.sub(_shown, str(text))


def line(text: object) -> str:
    """Return `terminal` text on one line."""
    return terminal(text).replace("\n", "\\n").replace("\t", " ")


def printable(text: str) -> str:
    """Return text that has a form in UTF-8: single surrogates, as in file names of other encodings, are ``\\udcff``."""
    return text.encode(errors="backslashreplace").decode()


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file that a spreadsheet does not take for a formula.

    Text that begins like a formula gets an apostrophe in front, as spreadsheets write literal text; numbers are unchanged,
    and control characters other than tab and line feed are visible as ``\\u000d``.
    """
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        shown = terminal(value)  # a carriage return would end the row
        return f"'{shown}" if value.lstrip(" ").startswith(_FORMULA) else shown
    return value.strip()


def html(text: object) -> str:
    """Return text for an element or a quoted attribute of an HTML page."""
    return _html.escape(terminal(text), quote=True)


def json_in_html(value: Any) -> str:
    """Return JSON for a ``<script>`` element: it can neither end the element nor begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return terminal(text)


def markdown(text: object) -> str:
    """Return text that Markdown shows literally, also in a cell of a table: no HTML, no links, no emphasis."""
    plain = terminal(text).replace("\n", " ").replace("\t", " ")
    return _MARKDOWN.sub(r"\\\1", plain.replace("&", "&amp;").replace("<", "&lt;"))


def markdown_code(text: object) -> str:
    """Return text as a code span of Markdown, also in a cell of a table; as `markdown` where a span may not hold."""
    if _NO_CODE.search(str(text)):
        return markdown(text)
    plain = terminal(text).replace("\n", " ").replace("\t", " ").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{space}{plain}{space}{fence}" if plain else ""


def mathtext(text: object, most: int = 200) -> str:
    """Return text that matplotlib draws literally: no formula, and not so long that no figure can hold it.

    Args:
        text: what to draw.
        most: characters that are kept.
    """
    plain = terminal(text)
    return (plain if len(plain) <= most else f"{plain[: most - 1]}…").replace("$", r"\$")


def latex(text: object) -> str:
    """Return text that LaTeX typesets literally."""
    return "".join(_LATEX.get(character, character) for character in terminal(text).replace("\n", " "))
