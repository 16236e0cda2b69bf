"""Tables of texts in the forms that people's programs write them, and what is said of those that are wrong."""

import re

import pytest

from src.core.errors import UserError
from src.datamodules.io.delimited_text import read_columns

ROWS = [("Good, she said", "1"), ('A "bad" day', "0"), ("two\nlines", "1")]
FORMS = {
    "plain.csv": b'label,text,more\n1,"Good, she said",x\n0,"A ""bad"" day",\n1,"two\nlines",y\n',
    "windows.csv": b'\xef\xbb\xbftext,label\r\n"Good, she said",1\r\n"A ""bad"" day",0\r\n"two\nlines",1\r\n',
    "tabs.tsv": b'text\tlabel\nGood, she said\t1\n"A ""bad"" day"\t0\n\n"two\nlines"\t1\n',
    "lines.jsonl": b'{"text": "Good, she said", "label": 1}\n\n{"label": "0", "text": "A \\"bad\\" day"}\r\n'
    b'{"text": "two\\nlines", "label": 1, "more": [1]}',
}


@pytest.mark.parametrize("name", FORMS)
def test_all_formats_give_the_same_rows(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert read_columns(path, ("text", "label")) == ROWS
    assert read_columns(path, ("label",)) == [(label,) for _, label in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "this file is empty; it must begin with a header such as text,label"),
        ("a.csv", "text,label\n\n", "there are no rows in this file"),
        ("a.csv", "txt,label\nx,1", "the header has no column 'text'. Did you mean 'txt'? Possible: label, txt."),
        ("a.csv", "text,text,label\nx,y,1", "the header names 'text' more than once"),
        ("a.csv", "text,label\nx,1\n ,1\n", "row 3, column 'text': this is empty"),
        ("a.csv", "text,label\nx,1\ny\n", "row 3: 1 columns where the header has 2"),
        ("a.csv", 'text,label\n"a\nb",1\nx, y,1\n', "row 4: 3 columns where the header has 2; a text that contains"),
        ("a.csv", 'text,label\nx,1\n"open,1\ny,2\n', "row 3: this is not valid CSV: unexpected end of data"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": 1', "row 2, column 11: this is not valid JSON"),
        ("a.jsonl", '{"text": "x"}', "row 1: there is no 'label'. Possible: text."),
        ("a.jsonl", '{"text": null, "label": 1}', "row 1, column 'text': this is empty"),
        ("a.jsonl", '["x", 1]', "row 1: a row must be an object"),
        ("a.jsonl", '{"text": {"body": "x"}, "label": 1}', "row 1, column 'text': this is neither a text nor a number"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "row 1: this JSON cannot be read"),
        ("a.jsonl", '{"text": ' + "1" * 5000 + "}", "row 1: this JSON cannot be read"),
        ("a.csv", b"text,label\n\xff,1\n", "this file is not UTF-8 text (byte 11)"),
    ],
)
def test_error_names_row_and_column_of_an_invalid_file(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="^" + re.escape(str(path)) + ".*" + re.escape(message)):
        read_columns(path, ("text", "label"))


def test_error_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"missing\.csv: this file cannot be read: No such file"):
        read_columns(tmp_path / "missing.csv", ("text",))
