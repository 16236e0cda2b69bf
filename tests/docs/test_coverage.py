"""Every choice in the table of the textbook is valid."""

import shlex
from pathlib import Path

import pytest
import yaml

from docs.coverage import FOLDER, IDS, requirements
from src.config.compose import compose
from src.config.validate import check

CHOICES = {
    name: entry["choice"]
    for path in sorted(FOLDER.glob("*.yaml"))
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    if entry.get("choice") and not entry["choice"].startswith(("src.", "-m"))
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_choice_is_a_valid_config(choice: str) -> None:
    check(compose(shlex.split(choice)), for_training=False)


def test_ids_match_the_requirements() -> None:
    assert len(IDS) == 60 and {"M7", "C7", "R7", "T8", "O9", "S9", "G8", "H5"} <= set(IDS)
    entries = requirements(FOLDER, {name: ["file::test"] for name in IDS})
    assert [entry.id for entry in entries] == IDS and all(entry.covered for entry in entries)


@pytest.mark.parametrize(
    ("file", "tests", "gaps"),
    [
        ("", ["R1", "R2"], ["R2"]),  # not in a file
        ("R2: {what: x, choice: model=rnn}", ["R1"], ["R2"]),  # without a test
        ("R2: {what: x}", ["R1", "R2"], ["R2"]),  # without a choice
        ("R2: {what: x, choice: model=rnn}", ["R1", "R2", "R22", "H4"], ["R22"]),  # a mistyped mark
        ("R2: {what: x, choice: model=rnn}\nRR: {what: x, choice: y}", ["R1", "R2"], ["RR"]),
    ],
)
def test_missing_and_unknown_entries_are_gaps(file: str, tests: list[str], gaps: list[str], tmp_path: Path) -> None:
    (tmp_path / "R.yaml").write_text("R1: {what: x, choice: model=rnn}\n" + file)
    entries = requirements(tmp_path, {name: ["file::test"] for name in tests})
    others = [name for name in IDS if name not in ("R1", "R2")]
    assert [entry.id for entry in entries if not entry.covered and entry.id not in others] == gaps
