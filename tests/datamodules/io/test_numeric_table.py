import logging

import pytest

from src.core.errors import UserError
from src.datamodules.io.numeric_table import read_rows

NAMES = ["height", "width", "age"]


@pytest.fixture
def csv_file(tmp_path):
    def write(text: str | bytes) -> str:
        path = tmp_path / "data.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_rows_and_files_can_be_mixed(csv_file):
    assert read_rows(["1,2.5,-3e2", csv_file("4,5,6\n\n7, 8 ,9\n"), "0,0,0"], NAMES) == [
        [1, 2.5, -300],
        [4, 5, 6],
        [7, 8, 9],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_header_is_not_an_example(csv_file, mark):
    assert read_rows([csv_file(mark + "height,width,age\n1,2,3\n")], NAMES) == [[1, 2, 3]]


def test_header_determines_the_order_of_columns(csv_file, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_rows([csv_file("age,height,width\n1,2,3\n4,5,6\n")], NAMES) == [[2, 3, 1], [5, 6, 4]]
    assert not caplog.records


def test_unknown_header_is_ignored_with_a_warning(csv_file, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_rows([csv_file("a,b,c\n1,2,3\n")], NAMES) == [[1, 2, 3]]
    assert "height, width, age" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n\n4,x,6\n", r"data\.csv, row 3, column 2 \(width\): 'x' is not a number"),
        ("height,width,age\n1,2,3\n4,5\n", r"data\.csv, row 3: 2 columns where 3 are expected: height, width, age"),
        ("age,height,width\n1,,3\n", r"row 2, column 2 \(height\): '' is not a number"),
        ("1,x,3\n", r"row 1, column 2 \(width\): 'x' is not a number"),
        ("1,2,nan\n", r"row 1, column 3 \(age\): 'nan' is not a finite number"),
        ("1,inf,3\n", r"row 1, column 2 \(width\): 'inf' is not a finite number"),
        ("", r"data\.csv: this file has no row"),
        ("height,width,age\n", r"data\.csv: this file has no row"),
        (b"1,2,3\n4,\xff,6\n", r"data\.csv: this file is not UTF-8 text \(byte 8\)"),
    ],
)
def test_error_names_the_invalid_part_of_a_file(csv_file, text, message):
    with pytest.raises(UserError, match=message):
        read_rows([csv_file(text)], NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "'1,2': 2 columns where 3 are expected"),
        ("1,2,three", r"column 3 \(age\): 'three' is not a number"),
        ("missing.csv", "missing.csv: there is no such file"),
        ("missing", "'missing' is neither a file nor a row of 3 numbers"),
        ("", "neither a file nor a row"),
        ("9" * 5000, "neither a file nor a row"),
    ],
)
def test_error_names_the_invalid_part_of_a_row(text, message):
    with pytest.raises(UserError, match=message):
        read_rows([text], NAMES)


def test_invalid_csv_is_rejected(csv_file):
    with pytest.raises(UserError, match=r"input '1,2,3\\n4,5,6': this is not valid CSV"):
        read_rows(["1,2,3\n4,5,6"], NAMES)
    path = csv_file("1,2," + "3" * 200_000)  # longer than a field may be
    with pytest.raises(UserError, match=r"data\.csv: this is not valid CSV"):
        read_rows([path], NAMES)
