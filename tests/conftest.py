"""Fixtures of all tests. Tests run with one thread, do not contact W&B, and write only to their own folders."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, here and in the commands that tests start
os.environ["MKL_NUM_THREADS"] = "1"

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.miniatures import PUBLIC, write_public

ROOT = Path(__file__).resolve().parents[1]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the environment variables and the global state of Hydra, which runs change."""
    environment = dict(os.environ)
    monkeypatch.chdir(ROOT)
    for name in ("HYDRA_FULL_ERROR", "GRIDLIGHT_RUN_FOLDER", "LOCAL_RANK", "WANDB_API_KEY", "WANDB_PROJECT"):
        os.environ.pop(name, None)
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    yield
    GlobalHydra.instance().clear()
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session", autouse=True)
def compose_once() -> None:
    """Compose each list of overrides once in a session. Hydra takes 75 ms, and a copy 3 ms."""
    from copy import deepcopy

    from src.config import compose as module

    hydra_compose = module.hydra_compose
    configs: dict[tuple[str, ...], Any] = {}

    def compose(config_name: str, overrides: list[str]) -> Any:
        key = (config_name, *overrides)
        if key not in configs:
            configs[key] = hydra_compose(config_name, overrides=overrides)
        return deepcopy(configs[key])

    module.hydra_compose = compose


# The options that an option requires.
COMPANIONS = {
    "regularization=spatial_dropout": ["model=cnn"],
    "regularization=stochastic_depth": ["model=resnet"],
    "callbacks=fit": ["datamodule=function"],
    "datamodule=dates": ["model=transformer"],
    "callbacks=attention_maps": ["model=transformer"],
    "datamodule=text": ["model=transformer"],
    "datamodule=tiny_shakespeare": ["model=transformer"],
    "datamodule=text_classification": ["model=lstm"],
    "datamodule=parallel_text": ["model=transformer"],
    "datamodule=multi30k": ["model=transformer"],
    "regularization=audio_augmentation": ["datamodule=audio_folder"],
    "regularization=synonyms": ["model=lstm", "datamodule=text_classification"],
    "datamodule=adding": ["model=gru"],
    "datamodule=adding_short": ["model=gru"],
    "datamodule=adding_long": ["model=gru"],
    "datamodule=copy": ["model=lstm"],
    "datamodule=series": ["model=gru"],
    "callbacks=gradient_through_time": ["model=rnn"],
}

# Overrides of a datamodule that make it small.
SMALL = {
    "dates": ["train_size=96", "val_size=16", "test_size=16", "languages=[en,de]"],
    "mackey_glass": ["length=400"],
    "shapes": ["train_size=128", "val_size=20", "test_size=20"],
    "adding": ["lag=10", "train_size=96", "val_size=16", "test_size=16"],
    "adding_short": ["lag=2", "train_size=96", "val_size=16", "test_size=16"],
    "adding_long": ["train_size=96", "val_size=16", "test_size=16"],
    "copy": ["lag=5", "symbols=3", "train_size=96", "val_size=16", "test_size=16"],
    "text": ["context=16", "batch_size=8", "val_fraction=0.2", "test_fraction=0.2"],
    "image_folder": ["batch_size=8"],
    "audio_folder": ["batch_size=8", "seconds=0.3", "sample_rate=8000", "n_fft=256", "n_mels=20"],
    "fsdd": ["batch_size=8", "seconds=0.3", "n_mels=20"],
}


# The depth and heads of the paper, with a small width.
_NARROW = ["model.d_model=32", "model.d_ff=48"]
SMALL_CHOICES = {"model=transformer_base": _NARROW, "experiment=transformer_paper": _NARROW}


# ---- small files for the datamodules that read the user's files ----------------------------------------------------


def write_tone(path: Path, hertz: float, seconds: float, rate: int = 8000, seed: int = 0) -> None:
    """Write a tone with a little noise, 16 bits."""
    import numpy as np
    from scipy.io import wavfile

    noise = np.random.default_rng(seed).normal(0, 0.01, round(rate * seconds))
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / rate) + noise
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (tone * 32767).astype(np.int16))


def _book(folder: Path) -> list[str]:
    file = folder / "text.txt"
    file.write_text("".join(f"Line {i} of the book, {i * i} is its square.\n" for i in range(60)), encoding="utf-8")
    return [f"datamodule.path={file}"]


def _reviews(folder: Path) -> list[str]:
    adjectives = {"good": ("good", "great", "splendid"), "bad": ("bad", "awful", "dreary"), "so-so": ("usual", "plain")}
    rows = [
        f'"A {adjective}, {adjective} film, no. {i}",{label}'
        for label, choices in adjectives.items()
        for adjective in choices
        for i in range(10)
    ]
    file = folder / "reviews.csv"
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return [f"datamodule.path={file}"]


def _people(folder: Path) -> list[str]:
    rows = [f"{20 + i % 50},{('Oslo', 'Rome', 'Lima')[i % 3]},{'' if i % 9 == 0 else i / 3}" for i in range(90)]
    file = folder / "people.csv"
    labelled = [f"{row},{'yes' if i % 50 > 25 else 'no'}" for i, row in enumerate(rows)]
    file.write_text("\n".join(["age,city,income,bought", *labelled]))
    return [f"datamodule.path={file}", "datamodule.target_column=bought"]


def _pairs(folder: Path) -> list[str]:
    file = folder / "pairs.tsv"
    file.write_text("".join(f"number {i} is {i + 1}\tZahl {i} ist {i + 1}\n" for i in range(60)), encoding="utf-8")
    return [f"datamodule.path={file}"]


def write_image(
    path: Path, seed: int, brightness: int = 100, size: tuple[int, int] = (12, 10), mode: str = "RGB"
) -> None:
    """Write a noisy image.

    Args:
        path: of the file.
        seed: of the noise.
        brightness: is added to the noise.
        size: height and width in pixels.
        mode: ``RGB`` or ``L``.
    """
    import numpy as np
    from PIL import Image

    shape = size if mode == "L" else (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, 60, shape, dtype=np.uint8) + np.uint8(brightness)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _images(folder: Path) -> list[str]:
    for number, name in enumerate(("bright", "dark", "grey")):
        for i in range(12):
            write_image(folder / "images" / name / f"{i}.png", 100 * number + i, (180, 0, 90)[number])
    return [f"datamodule.path={folder / 'images'}"]


def _sounds(folder: Path) -> list[str]:
    for number, name in enumerate(("high", "low", "middle")):
        for i in range(12):
            write_tone(folder / "sounds" / name / f"{i}.wav", 300 + 500 * number, 0.2 + 0.01 * i, seed=i)
    return [f"datamodule.path={folder / 'sounds'}"]


def _spoken_digits(folder: Path) -> list[str]:
    for digit in range(10):
        for i in range(9):
            write_tone(folder / "fsdd" / "recordings" / f"{digit}_ann_{i}.wav", 200 + 100 * digit, 0.2, seed=i)
    return [f"paths.data={folder}", "datamodule.verify=false"]


def _series(folder: Path) -> list[str]:
    file = folder / "series.csv"
    file.write_text("x\n" + "".join(f"{n * n % 97 + n / 600}\n" for n in range(600)))
    return [f"datamodule.path={file}"]


def _public(name: str, folder: Path) -> list[str]:
    write_public(name, folder)
    return [f"paths.data={folder}", "datamodule.verify=false"]


USERS_FILES: dict[str, Callable[[Path], list[str]]] = {
    "text": _book,
    "text_classification": _reviews,
    "parallel_text": _pairs,
    "audio_folder": _sounds,
    "image_folder": _images,
    "fsdd": _spoken_digits,
    "series": _series,
    "table": _people,
    **{name: partial(_public, name) for name in PUBLIC},
}
"""For each datamodule that needs files: the function that writes them to a folder and returns the overrides that name them."""


@pytest.fixture(scope="session")
def users_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return a function that returns the overrides that a datamodule needs, and writes its files once."""
    return cache(lambda name: USERS_FILES[name](tmp_path_factory.mktemp(name)) if name in USERS_FILES else [])


@pytest.fixture(scope="session")
def tone() -> Callable[..., None]:
    """Return the function that writes a WAV file of a tone."""
    return write_tone


WORDNET = {"good": ["good", "great", "fine"], "film": ["film", "movie", "big screen"], "usual": ["usual", "plain"]}


@pytest.fixture(scope="session")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install a tiny WordNet in a temporary folder, and return its name."""
    import wn

    folder = tmp_path_factory.mktemp("wordnet")
    lemmas = {lemma: [s for s, others in WORDNET.items() if lemma in others] for x in WORDNET.values() for lemma in x}
    entries = "".join(
        f'<LexicalEntry id="w-{i}"><Lemma writtenForm="{lemma}" partOfSpeech="n"/>'
        + "".join(f'<Sense id="w-{i}-{synset}" synset="w-{synset}"/>' for synset in synsets)
        + "</LexicalEntry>"
        for i, (lemma, synsets) in enumerate(lemmas.items())
    )
    synsets = "".join(f'<Synset id="w-{synset}" ili="" partOfSpeech="n"/>' for synset in WORDNET)
    about = 'label="Tiny" language="en" email="tiny@example.org" license="none" version="1"'
    (folder / "tiny.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE LexicalResource SYSTEM '
        '"http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n'
        f'<LexicalResource><Lexicon id="tiny" {about}>{entries}{synsets}</Lexicon></LexicalResource>'
    )
    wn.config.data_directory = folder
    wn.add(folder / "tiny.xml", progress_handler=None)
    return "tiny:1"


@pytest.fixture
def complete(users_files: Callable[[str], list[str]], request: pytest.FixtureRequest) -> Callable[..., list[str]]:
    """Return a function that completes overrides: it adds the options and files that they require."""
    from src.config.compose import compose

    def complete_overrides(*overrides: str) -> list[str]:
        required = [companion for override in overrides for companion in COMPANIONS.get(override, [])]
        result = [*overrides, *_without_keys_of(overrides, required)]
        config = compose(result)
        if config.regularization.synonyms.probability:
            result.append(f"regularization.synonyms.lexicon={request.getfixturevalue('wordnet')}")
        return [*result, *_without_keys_of(result, users_files(config.datamodule.name))]

    return complete_overrides


def _without_keys_of(overrides: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Return the default overrides whose keys are not among those of other overrides."""
    keys = {override.partition("=")[0] for override in overrides}
    return [default for default in defaults if default.partition("=")[0] not in keys]


@pytest.fixture
def fast(tmp_path: Path, complete: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return a function that completes overrides and adds others, so that the run takes a few steps on a small data set and
    writes to the folder of the test. The given overrides take precedence.
    """
    from src.config.compose import compose

    def fast_overrides(*overrides: str) -> list[str]:
        result = complete(*overrides)
        data = str(compose(result).datamodule.name)
        small = [
            "trainer=smoke",
            "logger=none",
            *(f"datamodule.{override}" for override in SMALL.get(data, [])),
            *(small_override for override in result for small_override in SMALL_CHOICES.get(override, [])),
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=2",
            "trainer.limit_val_batches=2",
            "trainer.limit_test_batches=2",
            f"paths.outputs={tmp_path}/outputs",
        ]
        return [*_without_keys_of(result, small), *result]

    return fast_overrides


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden_losses.json")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs ``python -m <arguments>`` in the root of the repository."""

    def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=ROOT, env=os.environ | env, text=True, capture_output=True, timeout=300)

    return run
