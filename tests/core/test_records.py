"""Records are read within bounds."""

from io import BytesIO

import pytest

from src.core.records import RecordError, read_lines


def test_lines_are_bounded_in_number_and_length() -> None:
    assert list(read_lines(BytesIO(b"a\n\nb"), "x", limit=2, max_lines=3)) == [b"a\n", b"\n", b"b"]
    with pytest.raises(RecordError, match="x: this file has more than 2 lines"):
        list(read_lines(BytesIO(b"\n" * 3), "x", max_lines=2))
    with pytest.raises(RecordError, match="x: a line has more than"):
        list(read_lines(BytesIO(b"abc\n"), "x", limit=3))
