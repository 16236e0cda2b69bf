"""What the table of the textbook says can be chosen, can be."""

import shlex

import pytest
import yaml

from docs.coverage import FOLDER
from src.config.check import check
from src.config.compose import compose

CHOICES = {
    name: entry["choice"]
    for path in sorted(FOLDER.glob("*.yaml"))
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    if entry.get("choice") and not entry["choice"].startswith(("src.", "-m"))
}


@pytest.mark.parametrize("words", CHOICES.values(), ids=CHOICES)
def test_the_words_choose_something_that_trains(words: str) -> None:
    check(compose(shlex.split(words)), for_training=False)
