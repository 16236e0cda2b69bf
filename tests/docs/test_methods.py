"""Every method has a page; its keys are those of the option's file, and its table follows from what was measured."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from docs.methods import FOLDER, better, keys, pages, results, shown, written, written_index
from docs.something import asked
from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.validate import check

NO_METHOD = {"regularization/none", "regularization/default"}
GROUPS = ("optimizer", "scheduler", "regularization")
OPTIONS = {f"{group}/{name}" for group in GROUPS for name in groups([CONF])[group]} - NO_METHOD
PAGES = {page.name: page for page in pages()}


def test_every_option_has_a_page_that_is_measured() -> None:
    written_by_hand = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.md")}
    assert written_by_hand == set(PAGES), "a page for each entry of measurements.yaml, and the other way round"
    assert sorted(OPTIONS - set(PAGES)) == []


@pytest.mark.parametrize("name", PAGES)
def test_tables_follow_from_the_option_and_the_measurements(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    assert written(PAGES[name]) == text, "python -m docs.methods writes them anew"
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [*(["Keys"] if name in OPTIONS else []), "Measured effect", "Source"]


def test_the_index_follows_from_the_measurements() -> None:
    assert written_index() == (FOLDER / "README.md").read_text(encoding="utf-8")


def leaves(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif key not in ("name", "_target_"):
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_keys_are_those_that_the_config_has(name: str) -> None:
    """Read by a YAML reader and not by lines."""
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    prefix = "" if "@package _global_" in text else name.partition("/")[0] + "."
    found = {key: yaml.safe_load(value) for key, value, _ in keys(CONF / f"{name}.yaml")}
    assert found == dict(leaves(yaml.safe_load(text), prefix))
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.]+)` \| `.*` \| .* \|$", page, re.M)[: len(found)] == list(found)


@pytest.mark.parametrize("name", PAGES)
def test_the_numbers_are_means_of_what_was_measured(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    for words, label in zip(PAGES[name].words, PAGES[name].labels, strict=True):
        seeds = results()[words]["seeds"].values()
        assert len(seeds) == 5
        row = re.search(rf"^\| `{re.escape(label)}` \| (.*) \|$", text, re.M)
        assert row is not None
        *cells, change, better_in, word = row[1].split(" | ")
        first = PAGES[name].metrics[0]
        values = [np.array([seed[metric] for seed in seeds]) for metric in PAGES[name].metrics]
        if words != PAGES[name].words[0]:
            cells.append(change)
            before = np.array([seed[first] for seed in results()[PAGES[name].words[0]]["seeds"].values()])
            values.append(values[0] - before)
            gain = values[-1] if first.endswith("accuracy") else -values[-1]
            assert better_in == f"{(gain > 0).sum()} of 5"
            shows = abs(gain.mean()) > gain.std(ddof=1)
            expected = (
                "gain" if shows and (gain > 0).sum() >= 4 else "loss" if shows and (gain > 0).sum() <= 1 else "none"
            )
            assert word == expected
        for cell, numbers in zip(cells, values, strict=True):
            mean, deviation = map(float, cell.split(" ± "))
            spread = numbers.std(ddof=1)
            assert deviation == pytest.approx(spread, rel=0.06)
            assert mean == pytest.approx(numbers.mean(), abs=0.06 * spread or 5e-4)


@pytest.mark.parametrize("name", PAGES)
def test_the_words_do_not_claim_what_the_numbers_do_not_show(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    table, _, rest = text.partition("## Measured effect")[2].partition("<!-- end -->")
    effects = set(re.findall(r"\| (gain|loss|none) \|$", table, re.M))
    said = rest.partition("## Source")[0]
    assert effects and said.strip()
    if effects == {"none"}:
        assert not re.search(r"\b(gain|hurts)\b", said)
    if "none" not in effects:
        assert not re.search(r"\bNo (effect|difference)\b", said)


@pytest.mark.parametrize("name", PAGES)
def test_what_is_measured_can_be_run(name: str) -> None:
    for words in PAGES[name].words:
        check(compose(shlex.split(words)), for_training="path=data/" not in words)  # docs.speakers, docs.something


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0, 1.0, 1.0], "1.000 ± 0.000"), ([0.9, 1.0, 1.1], "1.00 ± 0.10"), ([10.0, 30.0, 50.0], "30 ± 20"),
     ([0.97, 0.9712, 0.9724], "0.9712 ± 0.0012")],
)  # fmt: skip
def test_a_mean_is_shown_to_the_second_digit_of_its_deviation(values: list[float], text: str) -> None:
    assert shown(values) == text


def test_captions_ask_for_one_thing_and_do_not_name_it() -> None:
    captions = [
        "A dog runs.",
        "She walks down the street.",
        "A dog in the street.",
        "The dogs play with a ball.",
        "A man.",
    ]
    found = [("Something runs.", "dog"), ("She walks down something.", "street")]
    assert asked([*captions, "Snow on the bench", "a ball, the ball"]) == found


def test_more_accuracy_and_less_loss_are_better() -> None:
    assert better("test/accuracy", 0.9, 0.8) and not better("test/loss", 0.9, 0.8) and better("epochs", 5, 9)


def test_links_lead_somewhere() -> None:
    for page in FOLDER.glob("**/*.md"):
        for link in re.findall(r"\]\(([\w./]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"
