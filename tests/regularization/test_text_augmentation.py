"""Synonyms against the file of a WordNet, back-translation between toy languages, both on training texts only."""

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

TEXT = "A good film, they wrote: GOOD (and usual) goods!  Film it?"
OFF = BackKnobs(probability=0.5, forward=None, backward=None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def synonyms_in(file: Path) -> dict[str, set[str]]:
    """Return the words that share a synset with each word, from a WN-LMF file without the library."""
    entries = re.findall(r"<LexicalEntry.*?</LexicalEntry>", file.read_text())
    synsets = {re.search('writtenForm="(.*?)"', e)[1]: set(re.findall('synset="(.*?)"', e)) for e in entries}
    return {
        word: {other for other in synsets if other != word and synsets[other] & own} for word, own in synsets.items()
    }


@pytest.fixture
def synonyms(wordnet: str) -> dict[str, set[str]]:
    import wn

    return synonyms_in(Path(wn.config.data_directory) / "tiny.xml")


@pytest.mark.req("G7")
def test_synonyms_of_a_word_are_those_of_its_synsets(wordnet: str, synonyms: dict[str, set[str]]) -> None:
    replace = Synonyms(1.0, wordnet)
    assert synonyms["good"] == {"great", "fine"} and synonyms["film"] == {"movie", "big screen"}
    for word, others in synonyms.items():
        assert set(replace.synonyms_of(word)) == others
    assert replace.synonyms_of("GOOD") == replace.synonyms_of("good")
    assert replace.synonyms_of("goods") == replace.synonyms_of("") == ()


@pytest.mark.req("G7")
def test_only_words_with_synonyms_change(wordnet: str, synonyms: dict[str, set[str]]) -> None:
    replace = Synonyms(1.0, wordnet)
    form = re.compile(r"A (\S+) (.+), they wrote: (.+) \(and (.+)\) goods!  (.+) it\?")
    seen = set()
    for _ in range(100):
        match = form.fullmatch(replace(TEXT))
        assert match, "spaces, marks and other words do not change"
        for chosen, word in zip(match.groups(), ("good", "film", "good", "usual", "film"), strict=True):
            assert chosen.lower() in synonyms[word]
        assert match[3][0].isupper() and match[5][0].isupper() and match[1].islower()
        seen.add(match.groups())
    assert len(seen) > 10, "sampled at each call"
    for choice in ("great", "fine"):
        drawn = [replace("good") for _ in range(1000)]
        assert drawn.count(choice) == pytest.approx(500, abs=60)


@pytest.mark.req("G7")
def test_word_is_replaced_with_the_configured_probability(wordnet: str) -> None:
    replace = Synonyms(0.3, wordnet)
    words = replace("good " * 5000).split()
    assert sum(word != "good" for word in words) / 5000 == pytest.approx(0.3, abs=0.02)
    assert Synonyms(0.0, wordnet)(TEXT) == TEXT


def test_stop_words_are_not_replaced(wordnet: str) -> None:
    replace = Synonyms(1.0, wordnet)
    replace._wordnet = SimpleNamespace(synsets=lambda word: pytest.fail(f"{word} was looked up"))
    assert replace.synonyms_of("In") == replace.synonyms_of("a") == ()


@pytest.fixture
def reviews(users_files) -> Path:
    return Path(users_files("text_classification")[0].partition("=")[2])


@pytest.mark.req("G7")
def test_only_training_texts_are_augmented_differently_in_each_epoch(reviews: Path, wordnet: str) -> None:
    augmentation = TextAugmentation(SynonymKnobs(probability=0.5, lexicon=wordnet), OFF, Translator)
    data = TextClassification(reviews, max_length=6, shuffle=False, augmentation=augmentation)
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
    assert not (torch.cat([b.x.flatten() for b in first]) == 3).any(), (
        "synonyms that are not in the training texts are in the vocabulary"
    )
    assert {"movie", "big", "screen"} <= set(data.vocabulary.tokens)
    torch.manual_seed(5)
    again = list(data.train_dataloader())
    torch.manual_seed(5)
    assert all(torch.equal(a.x, b.x) for a, b in zip(again, data.train_dataloader(), strict=True))


def test_data_without_texts_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"regularization\.synonyms\.probability .* text .* digits has none.*: text_class"
    ):
        check(compose(["regularization=synonyms"]))
    both = [f"regularization.back_translation.{direction}=RUN" for direction in ("forward", "backward")]
    with pytest.raises(UserError, match=r"regularization\.back_translation\.forward .* digits has none"):
        check(compose(both))
    with pytest.raises(UserError, match=r"regularization\.back_translation: set both"):
        check(compose(both[:1]))


def test_missing_library_or_wordnet_error_names_the_installation_command(wordnet: str, monkeypatch) -> None:
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
"""Two words for each class in the first language; the other language has one."""


def translation_run(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    """Train a translator of a few words until it makes no errors."""
    file = folder / f"{name}.tsv"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    overrides = [
        "model=transformer",
        "datamodule=parallel_text",
        f"datamodule.path={file}",
        "logger=none",
        "callbacks=quiet",
    ]
    small = ["model.d_model=32", "model.num_layers=1", "model.d_ff=64", "optimizer.lr=3e-3", "datamodule.batch_size=16"]
    result = run(
        [*overrides, *small, f"paths.outputs={folder}", "trainer.max_epochs=12", "regularization=none"], verbose=False
    )
    assert result.metrics["test/exact_match"] == 1.0
    return result.folder


@pytest.fixture(scope="module")
def translators(tmp_path_factory) -> tuple[Path, Path]:
    """Return a run for each direction: forward translates a word to its class, backward always to its second word."""
    folder = tmp_path_factory.mktemp("translation")
    generator = random.Random(0)
    forward, backward = [], []
    for _ in range(240):
        first, second = generator.choices(list(CLASSES), k=2)
        ours = [generator.choice(CLASSES[meaning]) for meaning in (first, second)]
        forward.append((f"{ours[0]} and {ours[1]}", f"{first.upper()} + {second.upper()}"))
        backward.append((forward[-1][1], f"{CLASSES[first][1]} and {CLASSES[second][1]}"))
    return translation_run(folder, "forward", forward), translation_run(folder, "backward", backward)


@pytest.mark.slow
@pytest.mark.req("G7")
def test_back_translation_gives_paraphrases(translators: tuple[Path, Path], caplog) -> None:
    back = BackTranslation(*translators, 0.5, Translator)
    texts = ["cat and red", "six and kitty", "scarlet and six", "a dog", "cat and red and cat and red and cat and red"]
    back.fit(texts)
    assert back.paraphrases == {
        "cat and red": "kitty and scarlet",
        "six and kitty": "half a dozen and kitty",
        "scarlet and six": "scarlet and half a dozen",
        "a dog": "a dog",
        texts[-1]: texts[-1],
    }
    assert "2 of 5 sentences cannot be translated completely" in caplog.text
    assert "<unknown>" not in caplog.text
    drawn = [back("cat and red") for _ in range(2000)]
    assert drawn.count("kitty and scarlet") == pytest.approx(1000, abs=100)
    assert set(drawn) == {"cat and red", "kitty and scarlet"}
    again = BackTranslation(*translators, 0.5, Translator)
    again.fit(texts[:2])
    assert again.paraphrases == {text: back.paraphrases[text] for text in texts[:2]}, "the same in every run"
    again._translators = ()
    again.fit(texts[:2])  # each is translated once


@pytest.mark.slow
@pytest.mark.req("G7")
def test_classifier_trained_with_paraphrases_knows_their_words(translators: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [(f"{a} and {b}", name) for name, (a, _) in CLASSES.items() for b, _ in CLASSES.values() for _ in range(10)]
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"{text},{name}\n" for text, name in rows))
    augmentation = [
        f"regularization.back_translation.{key}={path}"
        for key, path in zip(("forward", "backward"), translators, strict=True)
    ]
    overrides = [
        "model=gru",
        "datamodule=text_classification",
        f"datamodule.path={file}",
        "logger=none",
        "optimizer.lr=1e-2",
    ]
    from src.cli.predict import predict

    result = run([*overrides, *augmentation, f"paths.outputs={tmp_path}", "trainer.max_epochs=10"], verbose=False)
    unseen = {f"{b} and {CLASSES['number'][1]}": name for name, (_, b) in CLASSES.items()}
    assert [prediction["prediction"] for prediction in predict(result.folder, list(unseen))] == list(unseen.values())


@pytest.mark.req("G7")
def test_word_counts_once_in_a_text_and_its_paraphrase(tmp_path: Path) -> None:
    """A word in only one text is unknown, so that training sees unknown words."""
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "a rare cat,x\na red cat,y\n" * 10 + "the odd dog,x\nthe kind dog,y\n")
    augmentation = TextAugmentation(SynonymKnobs(probability=0.0, lexicon="none"), OFF, Translator)
    data = TextClassification(file, val_fraction=0.1, test_fraction=0.1, min_frequency=2, augmentation=augmentation)
    changed = {"the odd dog": "the odd hound", "the kind dog": "the good hound"}
    texts = ["a rare cat", "a red cat", *changed]
    back = SimpleNamespace(fit=lambda texts: None, paraphrases={text: changed.get(text, text) for text in texts})
    augmentation._back_translation = back  # type: ignore[assignment]
    words = data._vocabulary(texts).tokens
    assert set(words) == {"a", "cat", "the", "dog", "hound"}


def test_sentences_end_with_punctuation_marks() -> None:
    assert sentences(" It is 3.5 m. Really?! Yes") == ["It is 3.5 m.", "Really?!", "Yes"]


@pytest.mark.slow
def test_translators_of_other_texts_are_rejected_or_logged(translators: tuple[Path, Path], caplog) -> None:
    with pytest.raises(UserError, match=r"forward=.*can read none of the 2 sentences, such as 'a dog'"):
        BackTranslation(*translators, 0.5, Translator).fit(["a dog", "no cat"])
    with pytest.raises(UserError, match="forward and backward are the same run"):
        BackTranslation(translators[0], translators[0], 0.5, Translator)
    back = BackTranslation(*translators, 0.5, Translator)
    back.fit(["cat and red"])
    assert "67 % of the words" in caplog.text and "'kitty and scarlet' for 'cat and red'" in caplog.text
    caplog.clear()
    back.fit(["kitty and scarlet"])
    assert "of the words" not in caplog.text


def test_runs_that_are_not_translators_are_rejected(fast, tmp_path: Path) -> None:
    folder = run(fast(), verbose=False).folder
    with pytest.raises(UserError, match=r"back_translation\.forward=.*: this run does classification"):
        BackTranslation(folder, folder, 0.5, Translator)
    with pytest.raises(UserError, match=r"regularization\.back_translation\.forward: .*none"):
        BackTranslation(tmp_path / "none", folder, 0.5, Translator)


def test_back_translation_with_probability_0_loads_no_translator() -> None:
    def load(path: Path) -> Translator:
        raise AssertionError(f"{path} was loaded")

    settings = BackKnobs(forward="en-de", backward="de-en", probability=0.0)
    augmentation = TextAugmentation(SynonymKnobs(probability=0.0, lexicon="none"), settings, load)
    augmentation.fit(["a text"])
    assert augmentation.paraphrases(["a text"]) == [] and augmentation("a text") == "a text"
