"""The table of the textbook's requirements, the commands that select them, and their tests: make coverage-of-the-textbook

docs/textbook/ holds one file per letter (M: multi-layer perceptron … H: choosing hyperparameters). It describes every
requirement, and gives the arguments that select it on the command line. Its tests have the mark req("<id>"). A requirement
without a choice or without a test is a gap, and so is an unknown id in a file or a mark. The exit code is 1 if there is a gap.
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
"""Number of requirements of each chapter. They are listed here so that a requirement missing in the files is a gap."""
IDS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]


@dataclass(frozen=True)
class Requirement:
    """A requirement of the textbook.

    Args:
        id: such as ``M1``.
        what: a short description.
        choice: the arguments of ``python -m``, or those of ``python -m src.train``, that select it.
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
    """Return every requirement, in the order of the textbook's chapters, followed by unknown ids.

    Args:
        folder: the folder with one file per letter.
        tests: the tests of each id, as returned by `marked_tests`.
    """
    entries: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        entries |= yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown_ids = sorted({*entries, *tests} - set(IDS))
    listed = []
    for name in IDS:
        entry = entries.get(name, {})
        tests_of_entry = tuple(dict.fromkeys(tests.get(name, ())))
        listed.append(Requirement(name, entry.get("what", ""), entry.get("choice") or "", tests_of_entry))
    return listed + [
        Requirement(name, "not a requirement of the textbook", "", tuple(tests.get(name, ()))) for name in unknown_ids
    ]


class _MarkCollector:
    """A pytest plugin that collects the tests of each requirement."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("req"):
            for name in mark.args:
                self.tests.setdefault(name, []).append(item.nodeid.partition("[")[0])


def marked_tests() -> dict[str, list[str]]:
    """Return the tests of each requirement."""
    marks = _MarkCollector()
    with redirect_stdout(StringIO()) as output:
        arguments = ["--collect-only", "-q", "-m", "slow or not slow", "-p", "no:xdist", "-p", "no:cacheprovider"]
        code = pytest.main([*arguments, "--rootdir", str(ROOT), str(ROOT / "tests")], plugins=[marks])
    if code:
        raise SystemExit(f"the tests cannot be collected:\n{output.getvalue()}")
    return marks.tests


def main() -> int:
    """Print the table; return 1 if there is a gap."""
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "what", "choice on the command line", "tests"):
        table.add_column(heading, overflow="fold")
    entries = requirements(FOLDER, marked_tests())
    for entry in entries:
        files = dict.fromkeys(Path(test.partition("::")[0]).name for test in entry.tests)
        summary = f"{len(entry.tests)} in {', '.join(files)}" if entry.tests else "GAP"
        table.add_row(entry.id, entry.what, entry.choice or "GAP", summary)
    show(table)
    gaps = [entry.id for entry in entries if not entry.covered]
    missing = f"; gaps: {' '.join(gaps)}" if gaps else ""
    show(f"\n{len(entries) - len(gaps)} of {len(entries)} requirements covered{missing}")
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main())
