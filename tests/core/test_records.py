"""Records are read within bounds."""

from io import BytesIO

import pytest

from src.core.records import RecordError, lines_of


def test_lines_are_bounded_in_number_and_length() -> None:
    assert list(lines_of(BytesIO(b"a\n\nb"), "x", limit=2, most_lines=3)) == [b"a\n", b"\n", b"b"]
    with pytest.raises(RecordError, match="x: this file has more than 2 lines"):
        list(lines_of(BytesIO(b"\n" * 3), "x", most_lines=2))
    with pytest.raises(RecordError, match="x: a line has more than"):
        list(lines_of(BytesIO(b"abc\n"), "x", limit=3))
