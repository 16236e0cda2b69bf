"""Printed tables."""

import time

import pytest

from src.core.tables import MAX_CELL, new_table, show


def test_a_large_cell_is_truncated(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    table = new_table("tags")
    table.add_row(" ".join(["tag"] * 2_000_000))
    show(table)
    assert len(capsys.readouterr().out) < 2 * MAX_CELL
    assert time.process_time() - started < 10
