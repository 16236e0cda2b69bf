import logging
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import torch
from babel.dates import format_date
from omegaconf import OmegaConf

from src.core.batches import TranslationBatch
from src.core.errors import UserError
from src.datamodules.synthetic.dates import PATTERNS, Dates

SHIPPED = list(OmegaConf.load(Path(__file__).parents[3] / "conf/datamodule/dates.yaml").languages)


@pytest.fixture(scope="module")
def dates() -> Dates:
    datamodule = Dates(train_size=1500, val_size=100, test_size=100, languages=SHIPPED)
    datamodule.setup()
    return datamodule


def texts_of(dates: Dates, name: str) -> list[tuple[str, str]]:
    """Read the pairs of a split back from its tokens."""
    batch = dates.split(name)
    source, target = dates.vocabularies
    return [
        (source.decode(s), target.decode(t[1:]))
        for s, t in zip(batch.source.tolist(), batch.target.tolist(), strict=True)
    ]


def test_each_text_is_one_date_in_all_languages():
    """All days of a leap year, in every shipped language and pattern; the year always has four digits."""
    meanings = defaultdict(set)
    for language in SHIPPED:
        for pattern in PATTERNS:
            for day in range(366):
                moment = date(2004, 1, 1) + timedelta(days=day)
                text = format_date(moment, pattern, locale=language)
                assert "2004" in text
                meanings[text].add(moment)
                meanings[text.lower()].add(moment)
    assert len(meanings) > 20_000
    assert not {text: found for text, found in meanings.items() if len(found) > 1}


def test_no_date_is_in_two_splits(dates):
    found = {name: [iso for _, iso in texts_of(dates, name)] for name in ("train", "val", "test")}
    assert [len(found[name]) for name in ("train", "val", "test")] == [1500, 100, 100]
    every = [iso for name in found for iso in found[name]]
    assert len(set(every)) == len(every)
    years = [int(iso[:4]) for iso in every]
    assert min(years) >= 1900 and max(years) <= 2099 and len(set(years)) == 200


def test_english_texts_match_their_target_dates():
    english = Dates(train_size=200, val_size=10, test_size=10, languages=["en"])
    formats = [
        "%d %B %Y",
        "%d %b %Y",
        "%B %d, %Y",
        "%A, %d %B %Y",
        "%Y %b %d",
        "%Y/%m/%d",
        "%Y.%m.%d",
        "%d. %B %Y",
        "%A, %B %d, %Y",
    ]
    english.setup()
    for text, iso in texts_of(english, "train"):
        read = set()
        for pattern in formats:
            try:
                read.add(datetime.strptime(text, pattern).date())  # an independent parser, which ignores case
            except ValueError:
                continue
        assert read == {date.fromisoformat(iso)}


@pytest.mark.parametrize(
    ("language", "text"),
    [("fr", "lundi 3 mars 1975"), ("de", "Montag, 3. März 1975"), ("pl", "poniedziałek, 3 marca 1975")],
)
def test_full_dates_are_idiomatic(language, text):
    assert format_date(date(1975, 3, 3), PATTERNS[-1], locale=language) == text


def test_every_language_and_case_occurs(dates):
    texts = " ".join(text for text, _ in texts_of(dates, "train"))
    for word in (
        "Monday",
        "Montag",
        "lundi",
        "lunes",
        "lunedì",
        "segunda",
        "maandag",
        "måndag",
        "mandag",
        "poniedziałek",
    ):
        assert word in texts or word.lower() in texts
    for months in (("January", "February", "July", "October"), ("january", "february", "july", "october")):
        assert any(month in texts for month in months)


def test_the_test_split_does_not_depend_on_the_size_of_training(dates):
    larger = Dates(train_size=1800, val_size=100, test_size=100, languages=SHIPPED)
    larger.setup()
    assert texts_of(larger, "test") == texts_of(dates, "test")
    assert texts_of(larger, "val") == texts_of(dates, "val")
    assert texts_of(larger, "train")[:1500] == texts_of(dates, "train")
    other = Dates(train_size=1500, val_size=100, test_size=100, languages=SHIPPED, split_seed=1)
    other.setup()
    assert texts_of(other, "test") != texts_of(dates, "test")


def test_source_vocabulary_is_fitted_on_the_training_split():
    few = Dates(train_size=5, val_size=200, test_size=200, languages=SHIPPED)
    few.setup()
    training = {c for text, _ in few.pairs()["train"] for c in text}
    assert set(few.vocabularies[0].tokens) == training
    assert (few.split("test").source == 3).any()  # characters that training lacks
    assert few.split("val").source.shape[1] <= few.spec.input_shape[0]


def test_targets_begin_with_start_and_end_with_end(dates):
    target, spec = dates.split("train").target, dates.spec
    assert target.shape[1] == spec.target_length == 12
    assert (target[:, 0] == spec.start_id).all() and (target[:, -1] == spec.end_id).all()
    assert not (target == spec.padding_id).any()


def test_collate_removes_only_padding(dates):
    batch = dates.split("train")
    short = TranslationBatch(*(tensor[batch.source.ne(0).sum(1) < 14][:5] for tensor in batch))
    cut = dates.collate(short)
    width = cut.source.shape[1]
    assert width == short.source.ne(0).sum(1).max() < short.source.shape[1]
    assert torch.equal(cut.source, short.source[:, :width]) and not short.source[:, width:].any()
    assert torch.equal(cut.target, short.target)


def test_encode_tokenizes_as_in_training(dates, caplog):
    with caplog.at_level(logging.WARNING):
        batch = dates.encode(["  12 mai 1999 ", "5 May 2001"])
    assert not caplog.records
    assert [dates.vocabularies[0].decode(row) for row in batch.source.tolist()] == ["12 mai 1999", "5 May 2001"]
    assert not batch.target.any() and batch.target.shape == (2, 12)
    with caplog.at_level(logging.WARNING):
        assert 3 in dates.encode(["12 мая 1999"]).source[0]
    assert "<unknown>" in caplog.text and "м" in caplog.text


def test_decoded_predictions_stop_at_the_end_token(dates):
    tokens = [*dates.vocabularies[1].encode("1999-05-12"), 2, 0, 0]
    assert dates.decode_predictions([{"tokens": tokens}]) == [{"prediction": "1999-05-12"}]


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ("   ", "empty"), ("1" * 60, "60 tokens; the longest text of training")]
)
def test_invalid_dates_are_rejected(dates, text, message):
    with pytest.raises(UserError, match=message):
        dates.encode(["1 May 2000", text])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": ["en", "frr_XX"]}, "languages: Babel does not know 'frr_XX'"),
        ({"languages": ["engl"]}, r"Possible: aa, .*, …, \d+ more"),
        ({"train_size": 80_000}, "the splits need 82,000 dates, but there are only 73,049"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        Dates(**settings).setup()


def test_baseline_matches_no_date(dates):
    assert dates.baseline()["test/exact_match"] == 0
    assert 0.2 < dates.baseline()["test/token_accuracy"] < 0.7
