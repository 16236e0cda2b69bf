"""Synonyms against the WordNet's own file, back-translation between invertible toy languages, and training texts alone."""

import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.config.compose import compose
from src.config.schema.regularization import BackTranslation as BackKnobs
from src.config.schema.regularization import Synonyms as SynonymKnobs
from src.config.validate import check
from src.core.errors import UserError
from src.datamodules.text.text_classification import TextClassification
from src.regularization.text_augmentation import BackTranslation, Synonyms, TextAugmentation, sentences
from src.training.inference import Translator
from src.training.run import run

TEXT = "A good film, they said: GOOD (and usual) goods!  Film it?"
OFF = BackKnobs(probability=0.5, forward=None, backward=None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def synonyms_in(file: Path) -> dict[str, set[str]]:
    """Read off a WN-LMF file, without the library, which words share a synset."""
    entries = re.findall(r"<LexicalEntry.*?</LexicalEntry>", file.read_text())
    synsets = {re.search('writtenForm="(.*?)"', e)[1]: set(re.findall('synset="(.*?)"', e)) for e in entries}
    return {
        word: {other for other in synsets if other != word and synsets[other] & own} for word, own in synsets.items()
    }


@pytest.fixture
def truth(wordnet: str) -> dict[str, set[str]]:
    import wn

    return synonyms_in(Path(wn.config.data_directory) / "tiny.xml")


@pytest.mark.req("G7")
def test_the_synonyms_of_a_word_are_those_of_its_synsets(wordnet: str, truth: dict[str, set[str]]) -> None:
    replace = Synonyms(1.0, wordnet)
    assert truth["good"] == {"great", "fine"} and truth["film"] == {"movie", "moving picture"}
    for word, others in truth.items():
        assert set(replace.of(word)) == others
    assert replace.of("GOOD") == replace.of("good") and replace.of("goods") == replace.of("") == ()


@pytest.mark.req("G7")
def test_nothing_but_words_with_synonyms_changes(wordnet: str, truth: dict[str, set[str]]) -> None:
    replace = Synonyms(1.0, wordnet)
    form = re.compile(r"A (\S+) (.+), they said: (.+) \(and (.+)\) goods!  (.+) it\?")
    seen = set()
    for _ in range(100):
        match = form.fullmatch(replace(TEXT))
        assert match, "spaces, marks and other words stay"
        for chosen, word in zip(match.groups(), ("good", "film", "good", "usual", "film"), strict=True):
            assert chosen.lower() in truth[word]
        assert match[3][0].isupper() and match[5][0].isupper() and match[1].islower()
        seen.add(match.groups())
    assert len(seen) > 10, "drawn anew each time"
    for choice in ("great", "fine"):
        drawn = [replace("good") for _ in range(1000)]
        assert drawn.count(choice) == pytest.approx(500, abs=60)


@pytest.mark.req("G7")
def test_a_word_is_replaced_as_often_as_asked(wordnet: str) -> None:
    replace = Synonyms(0.3, wordnet)
    words = replace("good " * 5000).split()
    assert sum(word != "good" for word in words) / 5000 == pytest.approx(0.3, abs=0.02)
    assert Synonyms(0.0, wordnet)(TEXT) == TEXT


def test_stop_words_stay(wordnet: str) -> None:
    replace = Synonyms(1.0, wordnet)
    replace._wordnet = SimpleNamespace(synsets=lambda word: pytest.fail(f"{word} was looked up"))
    assert replace.of("In") == replace.of("a") == ()


@pytest.fixture
def reviews(users_files) -> Path:
    return Path(users_files("text_classification")[0].partition("=")[2])


@pytest.mark.req("G7")
def test_training_texts_alone_are_changed_anew_in_every_epoch_and_keep_label_and_length(
    reviews: Path, wordnet: str
) -> None:
    data = TextClassification(reviews, max_length=6, shuffle=False)
    data.augmentation = TextAugmentation(SynonymKnobs(probability=0.5, lexicon=wordnet), OFF, Translator)
    data.setup()
    first, second = (list(data.train_dataloader()) for _ in range(2))
    assert not all(a.x.shape == b.x.shape and torch.equal(a.x, b.x) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.cat([batch.y for batch in first]), data.split("train").y)
    assert all(batch.x.size(1) <= 6 for batch in first)
    plain = TextClassification(reviews, max_length=6, shuffle=False)
    plain.load_state_dict(data.state_dict())
    for name in ("val", "test"):
        loader = data.val_dataloader() if name == "val" else data.test_dataloader()
        for batch, other in zip(loader, plain.loader(name), strict=True):
            assert torch.equal(batch.x, other.x)
    assert not (torch.cat([b.x.flatten() for b in first]) == 3).any(), "a synonym that training lacks is a word too"
    assert {"movie", "moving", "picture"} <= set(data.vocabulary.words)
    torch.manual_seed(5)
    again = list(data.train_dataloader())
    torch.manual_seed(5)
    assert all(torch.equal(a.x, b.x) for a, b in zip(again, data.train_dataloader(), strict=True))


def test_what_has_no_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"regularization\.synonyms\.probability .* text .* digits has none.*: text_class"
    ):
        check(compose(["regularization=synonyms"]))
    both = [f"regularization.back_translation.{way}=RUN" for way in ("forward", "backward")]
    with pytest.raises(UserError, match=r"regularization\.back_translation\.forward .* digits has none"):
        check(compose(both))
    with pytest.raises(UserError, match=r"regularization\.back_translation: there and back: both"):
        check(compose(both[:1]))


def test_a_missing_library_or_wordnet_is_named_with_the_way_to_get_it(wordnet: str, monkeypatch) -> None:
    message = (
        r"lexicon=oewn:2024: this WordNet is not installed \(installed: tiny:1\)(.|\n)*python -m wn download oewn:2024"
    )
    with pytest.raises(UserError, match=message):
        Synonyms(0.1, "oewn:2024")
    monkeypatch.setitem(__import__("sys").modules, "wn", None)
    with pytest.raises(UserError, match=r'the package wn: pip install -c constraints.txt -e "\.\[text\]"'):
        Synonyms(0.1, wordnet)


# ---- back-translation ----------------------------------------------------------------------------------------------

CLASSES = {"animal": ("cat", "kitty"), "colour": ("red", "scarlet"), "number": ("six", "half a dozen")}
"""Two words for each thing in our language; the other language has one."""


def translation_run(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    """Train a translator until it knows a language of a few words by heart."""
    file = folder / f"{name}.tsv"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    words = [
        "model=transformer",
        "datamodule=parallel_text",
        f"datamodule.path={file}",
        "logger=none",
        "callbacks=quiet",
    ]
    small = ["model.d_model=32", "model.num_layers=1", "model.d_ff=64", "optimizer.lr=3e-3", "datamodule.batch_size=16"]
    result = run(
        [*words, *small, f"paths.outputs={folder}", "trainer.max_epochs=12", "regularization=none"], verbose=False
    )
    assert result.metrics["test/exact_match"] == 1.0
    return result.folder


@pytest.fixture(scope="module")
def translators(tmp_path_factory) -> tuple[Path, Path]:
    """Runs there and back: the foreign word is the class itself, and back it is always the second word for it."""
    folder = tmp_path_factory.mktemp("translation")
    generator = random.Random(0)
    there, back = [], []
    for _ in range(240):
        first, second = generator.choices(list(CLASSES), k=2)
        ours = [generator.choice(CLASSES[meaning]) for meaning in (first, second)]
        there.append((f"{ours[0]} and {ours[1]}", f"{first.upper()} + {second.upper()}"))
        back.append((there[-1][1], f"{CLASSES[first][1]} and {CLASSES[second][1]}"))
    return translation_run(folder, "there", there), translation_run(folder, "back", back)


@pytest.mark.slow
@pytest.mark.req("G7")
def test_a_text_comes_back_in_other_words_of_the_same_meaning(translators: tuple[Path, Path], caplog) -> None:
    back = BackTranslation(*translators, 0.5, Translator)
    texts = ["cat and red", "six and kitty", "scarlet and six", "a dog", "cat and red and cat and red and cat and red"]
    back.fit(texts)
    assert back.found == {
        "cat and red": "kitty and scarlet",
        "six and kitty": "half a dozen and kitty",
        "scarlet and six": "scarlet and half a dozen",
        "a dog": "a dog",
        texts[-1]: texts[-1],
    }
    assert "2 of 5 sentences cannot be translated whole and stay" in caplog.text
    assert "<unknown>" not in caplog.text
    drawn = [back("cat and red") for _ in range(2000)]
    assert drawn.count("kitty and scarlet") == pytest.approx(1000, abs=100)
    assert set(drawn) == {"cat and red", "kitty and scarlet"}
    again = BackTranslation(*translators, 0.5, Translator)
    again.fit(texts[:2])
    assert again.found == {text: back.found[text] for text in texts[:2]}, "the same in every run"
    again._way = ()
    again.fit(texts[:2])  # each is translated once


@pytest.mark.slow
@pytest.mark.req("G7")
def test_paraphrases_train_a_classifier_that_then_knows_their_words(
    translators: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [(f"{a} and {b}", name) for name, (a, _) in CLASSES.items() for b, _ in CLASSES.values() for _ in range(10)]
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"{text},{name}\n" for text, name in rows))
    way = [
        f"regularization.back_translation.{key}={path}"
        for key, path in zip(("forward", "backward"), translators, strict=True)
    ]
    words = [
        "model=gru",
        "datamodule=text_classification",
        f"datamodule.path={file}",
        "logger=none",
        "optimizer.lr=1e-2",
    ]
    from src.cli.predict import predict

    result = run([*words, *way, f"paths.outputs={tmp_path}", "trainer.max_epochs=10"], verbose=False)
    unseen = {f"{b} and {CLASSES['number'][1]}": name for name, (_, b) in CLASSES.items()}
    assert [found["prediction"] for found in predict(result.folder, list(unseen))] == list(unseen.values())


@pytest.mark.req("G7")
def test_a_word_counts_once_in_a_text_and_its_paraphrase(tmp_path: Path) -> None:
    """One that stands in one text alone stays unknown, so that training reads unknown words."""
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "a rare cat,x\na red cat,y\n" * 10 + "the odd dog,x\nthe kind dog,y\n")
    data = TextClassification(file, val_fraction=0.1, test_fraction=0.1, min_frequency=2)
    data.augmentation = TextAugmentation(SynonymKnobs(probability=0.0, lexicon="none"), OFF, Translator)
    found = {"the odd dog": "the odd hound", "the kind dog": "the good hound"}
    back = SimpleNamespace(
        fit=lambda texts: None, found={t: found.get(t, t) for t in ("a rare cat", "a red cat", *found)}
    )
    data.augmentation._back = back  # type: ignore[assignment]
    words = data._vocabulary(["a rare cat", "a red cat", *found]).words
    assert set(words) == {"a", "cat", "the", "dog", "hound"}


def test_sentences_are_cut_behind_their_marks() -> None:
    assert sentences(" It is 3.5 m. Really?! Yes") == ["It is 3.5 m.", "Really?!", "Yes"]


@pytest.mark.slow
def test_translators_of_other_texts_are_refused_or_told_of(translators: tuple[Path, Path], caplog) -> None:
    with pytest.raises(UserError, match=r"forward=.*can read none of the 2 sentences, such as 'a dog'"):
        BackTranslation(*translators, 0.5, Translator).fit(["a dog", "no cat"])
    with pytest.raises(UserError, match="forward and backward are the same run"):
        BackTranslation(translators[0], translators[0], 0.5, Translator)
    there = BackTranslation(*translators, 0.5, Translator)
    there.fit(["cat and red"])
    assert "67 % of the words" in caplog.text and "'kitty and scarlet' for 'cat and red'" in caplog.text
    caplog.clear()
    there.fit(["kitty and scarlet"])
    assert "of the words" not in caplog.text


def test_what_does_not_translate_is_refused(fast, tmp_path: Path) -> None:
    folder = run(fast(), verbose=False).folder
    with pytest.raises(UserError, match=r"back_translation\.forward=.*: this run does classification"):
        BackTranslation(folder, folder, 0.5, Translator)
    with pytest.raises(UserError, match=r"regularization\.back_translation\.forward: .*none"):
        BackTranslation(tmp_path / "none", folder, 0.5, Translator)
