"""Every method has a page, whose tables match the option file and the measurements."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from docs.methods import FOLDER, format_mean, is_better, keys, pages, results, updated_index, updated_page
from docs.something import masked_captions
from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.validate import check

WITHOUT_PAGE = {"regularization/none", "regularization/default"}
GROUPS = ("optimizer", "scheduler", "regularization")
OPTIONS = {f"{group}/{name}" for group in GROUPS for name in groups([CONF])[group]} - WITHOUT_PAGE
PAGES = {page.name: page for page in pages()}


def test_every_option_has_a_measured_page() -> None:
    existing_pages = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.md")}
    assert existing_pages == set(PAGES), "a page for each entry of measurements.yaml, and vice versa"
    assert sorted(OPTIONS - set(PAGES)) == []


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_up_to_date(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    assert updated_page(PAGES[name]) == text, "python -m docs.methods updates them"
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [*(["Keys"] if name in OPTIONS else []), "Measured effect", "Source"]


def test_index_is_up_to_date() -> None:
    assert updated_index() == (FOLDER / "README.md").read_text(encoding="utf-8")


def leaves(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif key not in ("name", "_target_"):
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_keys_of_the_page_are_those_of_the_config(name: str) -> None:
    """The comparison uses a YAML parser, and docs.methods a regular expression."""
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    prefix = "" if "@package _global_" in text else name.partition("/")[0] + "."
    option_keys = {key: yaml.safe_load(value) for key, value, _ in keys(CONF / f"{name}.yaml")}
    assert option_keys == dict(leaves(yaml.safe_load(text), prefix))
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.]+)` \| `.*` \| .* \|$", page, re.M)[: len(option_keys)] == list(option_keys)


@pytest.mark.parametrize("name", PAGES)
def test_numbers_are_means_of_the_measurements(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    for overrides, label in zip(PAGES[name].overrides, PAGES[name].labels, strict=True):
        seeds = results()[overrides]["seeds"].values()
        assert len(seeds) == 5
        row = re.search(rf"^\| `{re.escape(label)}` \| (.*) \|$", text, re.M)
        assert row is not None
        *cells, change, improved, effect = row[1].split(" | ")
        first = PAGES[name].metrics[0]
        values = [np.array([seed[metric] for seed in seeds]) for metric in PAGES[name].metrics]
        if overrides != PAGES[name].overrides[0]:
            cells.append(change)
            baseline = np.array([seed[first] for seed in results()[PAGES[name].overrides[0]]["seeds"].values()])
            values.append(values[0] - baseline)
            gain = values[-1] if first.endswith("accuracy") else -values[-1]
            assert improved == f"{(gain > 0).sum()} of 5"
            significant = abs(gain.mean()) > gain.std(ddof=1)
            expected = (
                "gain"
                if significant and (gain > 0).sum() >= 4
                else "loss"
                if significant and (gain > 0).sum() <= 1
                else "none"
            )
            assert effect == expected
        for cell, numbers in zip(cells, values, strict=True):
            mean, std = map(float, cell.split(" ± "))
            spread = numbers.std(ddof=1)
            assert std == pytest.approx(spread, rel=0.06)
            assert mean == pytest.approx(numbers.mean(), abs=0.06 * spread or 5e-4)


@pytest.mark.parametrize("name", PAGES)
def test_prose_agrees_with_the_measured_effect(name: str) -> None:
    text = PAGES[name].file.read_text(encoding="utf-8")
    table, _, rest = text.partition("## Measured effect")[2].partition("<!-- end -->")
    effects = set(re.findall(r"\| (gain|loss|none) \|$", table, re.M))
    prose = rest.partition("## Source")[0]
    assert effects and prose.strip()
    if effects == {"none"}:
        assert not re.search(r"\b(gain|hurts)\b", prose)
    if "none" not in effects:
        assert not re.search(r"\bNo (effect|difference)\b", prose)


@pytest.mark.parametrize("name", PAGES)
def test_measured_commands_are_valid(name: str) -> None:
    for overrides in PAGES[name].overrides:
        check(
            compose(shlex.split(overrides)), for_training="path=data/" not in overrides
        )  # docs.speakers, docs.something


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0, 1.0, 1.0], "1.000 ± 0.000"), ([0.9, 1.0, 1.1], "1.00 ± 0.10"), ([10.0, 30.0, 50.0], "30 ± 20"),
     ([0.97, 0.9712, 0.9724], "0.9712 ± 0.0012")],
)  # fmt: skip
def test_mean_is_rounded_to_the_second_digit_of_the_standard_deviation(values: list[float], text: str) -> None:
    assert format_mean(values) == text


def test_masked_captions_name_exactly_one_object() -> None:
    captions = [
        "A dog runs.",
        "She walks down the street.",
        "A dog in the street.",
        "The dogs play with a ball.",
        "A man.",
    ]
    expected = [("Something runs.", "dog"), ("She walks down something.", "street")]
    assert masked_captions([*captions, "Snow on the bench", "a ball, the ball"]) == expected


def test_higher_accuracy_and_lower_loss_are_better() -> None:
    assert is_better("test/accuracy", 0.9, 0.8) and not is_better("test/loss", 0.9, 0.8) and is_better("epochs", 5, 9)


def test_links_exist() -> None:
    for page in FOLDER.glob("**/*.md"):
        for link in re.findall(r"\]\(([\w./]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"
