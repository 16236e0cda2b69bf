"""The table of the textbook's requirements: id → choice on the command line → tests: make coverage-of-the-textbook

docs/textbook/ holds one file a letter (M: multi-layer perceptron … H: choosing hyperparameters): for every requirement
what it asks, and the words of a command line that choose it. The tests that prove it are found by their mark req("<id>").
A requirement without a choice or without a test is a gap, and so is an id in a file or a mark that is none; the exit code
is then 1.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from src import ROOT
from src.core.tables import show

FOLDER = ROOT / "docs" / "textbook"
COUNTS = {"M": 7, "C": 7, "R": 7, "T": 8, "O": 9, "S": 9, "G": 8, "H": 5}
"""Requirements of each chapter, numbered from 1. They stand here so that one that is forgotten below is a gap."""
IDS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]


@dataclass(frozen=True)
class Requirement:
    """One system of the textbook.

    Args:
        id: such as ``M1``.
        what: in a few words.
        choice: the command after ``python -m``, or the words after ``python -m src.train``, that select it.
        tests: ``file::function`` of every test marked with the id.
    """

    id: str
    what: str
    choice: str
    tests: tuple[str, ...]

    @property
    def covered(self) -> bool:
        return bool(self.choice and self.tests)


def requirements(folder: Path, tests: Mapping[str, Sequence[str]]) -> list[Requirement]:
    """Return every requirement, in the order of the textbook's chapters, and behind them ids that are none.

    Args:
        folder: with a file a letter.
        tests: of each id, as `marked_tests` returns them.
    """
    entries: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        entries |= yaml.safe_load(path.read_text(encoding="utf-8"))
    strange = sorted({*entries, *tests} - set(IDS))
    found = []
    for name in IDS:
        entry = entries.get(name, {})
        proofs = tuple(dict.fromkeys(tests.get(name, ())))
        found.append(Requirement(name, entry.get("what", ""), entry.get("choice") or "", proofs))
    return found + [
        Requirement(name, "no requirement of the textbook", "", tuple(tests.get(name, ()))) for name in strange
    ]


class _Marks:
    """A pytest plugin that notes the tests of each requirement."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("req"):
            for name in mark.args:
                self.tests.setdefault(name, []).append(item.nodeid.partition("[")[0])


def marked_tests() -> dict[str, list[str]]:
    """Return the tests of each requirement, as pytest collects them."""
    marks = _Marks()
    with redirect_stdout(StringIO()) as said:
        words = ["--collect-only", "-q", "-m", "slow or not slow", "-p", "no:xdist", "-p", "no:cacheprovider"]
        code = pytest.main([*words, "--rootdir", str(ROOT), str(ROOT / "tests")], plugins=[marks])
    if code:
        raise SystemExit(f"the tests cannot be collected:\n{said.getvalue()}")
    return marks.tests


def main() -> int:
    """Print the table; return 1 if there is a gap."""
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "what", "choice on the command line", "tests"):
        table.add_column(heading, overflow="fold")
    found = requirements(FOLDER, marked_tests())
    for entry in found:
        files = dict.fromkeys(Path(test.partition("::")[0]).name for test in entry.tests)
        proofs = f"{len(entry.tests)} in {', '.join(files)}" if entry.tests else "GAP"
        table.add_row(entry.id, entry.what, entry.choice or "GAP", proofs)
    show(table)
    gaps = [entry.id for entry in found if not entry.covered]
    missing = f"; gaps: {' '.join(gaps)}" if gaps else ""
    show(f"\n{len(found) - len(gaps)} of {len(found)} requirements covered{missing}")
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main())
