"""Folders of sounds and the spoken digits: classes, splits, sample rates, features, and what is said when files are wrong."""

import hashlib
import os
import re
import tarfile
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from src import ROOT
from src.cli.predict import predict
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.datamodules.audio import fsdd
from src.datamodules.audio.audio_folder import AudioFolder
from src.datamodules.audio.fsdd import FSDD
from src.datamodules.audio.log_mel import LogMel
from src.datamodules.io import downloads
from src.datamodules.io.sound_files import read_wave
from src.training.run import run

REAL = Path(os.environ.get("GRIDLIGHT_DATA", ROOT.parent / "shared" / "data"))
SMALL = {"sample_rate": 8000, "seconds": 0.3, "n_fft": 256, "hop": 80, "n_mels": 20}


@pytest.fixture
def sounds(tmp_path, tone) -> Path:
    for name, hertz in (("low", 300), ("high", 1500)):
        for i in range(10):
            tone(tmp_path / "sounds" / name / f"take {i}.WAV", hertz, 0.2 + 0.02 * i, seed=i)
    return tmp_path / "sounds"


def test_class_folders_are_split_class_by_class(sounds):
    data = AudioFolder(sounds, val_fraction=0.2, test_fraction=0.2, **SMALL)
    assert {name: sorted(label for _, label in part) for name, part in data.files().items()} == {
        "train": ["high"] * 6 + ["low"] * 6,
        "val": ["high"] * 2 + ["low"] * 2,
        "test": ["high"] * 2 + ["low"] * 2,
    }
    data.setup()
    assert data.spec.class_names == ("high", "low") and data.spec.input_shape == (1, 31, 20)


def test_a_file_s_name_may_hold_its_class(tmp_path, tone):
    for name in ("yes_1_a.wav", "yes_2.wav", "no_1.wav", "deep/no_2.wav"):
        tone(tmp_path / name, 440, 0.1)
    (tmp_path / "notes.txt").write_text("not a sound")
    for pattern, labels in (
        ("{label}_*.wav", ["no", "yes", "yes"]),
        ("*/{label}_2.wav", ["no"]),
        ("deep/*_{label}.wav", ["2"]),
    ):
        share = {"val_fraction": 0.4, "test_fraction": 0.4}
        data = AudioFolder(tmp_path, pattern=pattern, val_path=tmp_path, test_path=tmp_path, **share, **SMALL)
        assert sorted(label for _, label in data.files()["train"]) == labels
    with pytest.raises(
        UserError, match=r"none of the 5 files here, such as deep/no_2.wav, matches datamodule.pattern=x\{label\}"
    ):
        AudioFolder(tmp_path, pattern="x{label}", **SMALL).files()


def test_splits_with_a_folder_are_that_folder(sounds, tmp_path, tone):
    for name in ("low", "high"):
        tone(tmp_path / "test" / name / "a.wav", 440, 0.2)
    data = AudioFolder(sounds, test_path=tmp_path / "test", val_fraction=0.2, **SMALL)
    assert {name: len(part) for name, part in data.files().items()} == {"train": 16, "val": 4, "test": 2}


@pytest.mark.parametrize("features", ["log_mel", "waveform"])
def test_features_are_standardised_on_training(sounds, features):
    data = AudioFolder(sounds, features=features, **SMALL)
    data.setup()
    x = data.split("train").x.double()
    axes = (0, 1, 2) if features == "log_mel" else (0, 1, 2, 3)
    torch.testing.assert_close(x.mean(axes), torch.zeros_like(x.mean(axes)), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(axes, correction=0), torch.ones_like(x.mean(axes)), atol=1e-4, rtol=0)
    path, _ = data.files()["test"][0]
    clip = torch.zeros(2400)
    wave = torch.from_numpy(read_wave(path)[0])[:2400]
    clip[: len(wave)] = wave
    plain = LogMel(8000, 256, 80, 20)(clip[None]) if features == "log_mel" else clip.reshape(1, 30, 80)
    mean, deviation = (torch.tensor(v, dtype=torch.float64) for v in (data.scale.mean, data.scale.deviation))
    torch.testing.assert_close(
        data.split("test").x[0].double(), (plain.double() - mean) / deviation, rtol=1e-4, atol=1e-4
    )


def test_another_sample_rate_is_resampled_or_refused(sounds, tone):
    before = AudioFolder(sounds, **SMALL)
    before.setup()
    found = AudioFolder(sounds, **SMALL | {"sample_rate": None})
    found.setup()
    assert found.sample_rate == 8000 and torch.equal(found.split("val").x, before.split("val").x)
    path = before.files()["val"][0][0]
    tone(path, 300 if path.parent.name == "low" else 1500, 0.2, rate=16000)
    with pytest.raises(
        UserError, match=re.escape(str(path)) + r": 16000 Hz, but .* 8000 Hz; datamodule.sample_rate=8000"
    ):
        AudioFolder(sounds, **SMALL | {"sample_rate": None}).setup()
    with pytest.raises(UserError, match="16000 Hz"):
        found.encode([str(path)])
    resampled = AudioFolder(sounds, **SMALL)
    resampled.setup()
    loudest = [x[0, 0, 5:15].mean(0).argmax() for x in (before.split("val").x, resampled.split("val").x)]
    assert loudest[0] == loudest[1], "the same tone"


def test_a_folder_that_cannot_be_used_is_named(tmp_path, sounds):
    with pytest.raises(UserError, match=r"datamodule\.path=.*none: there is no such folder"):
        check(compose(["model=cnn", "datamodule=audio_folder", f"datamodule.path={tmp_path / 'none'}"]))
    with pytest.raises(UserError, match=r"datamodule\.pattern=\*\.wav: a pattern must contain \{label\} once"):
        check(
            compose(["model=cnn", "datamodule=audio_folder", f"datamodule.path={sounds}", "datamodule.pattern='*.wav'"])
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match="none of the 0 files here is a sound file in a folder that is named after its class"
    ):
        AudioFolder(tmp_path / "empty").setup()
    with pytest.raises(UserError, match="one class only, 'sounds'"):
        AudioFolder(tmp_path).setup()
    (sounds / "low" / "take 3.WAV").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"low/take 3\.WAV: this is not a readable sound file"):
        AudioFolder(sounds, **SMALL).setup()


def test_predict_names_the_class_of_a_file(fast, sounds, capsys):
    overrides = fast(
        "model=cnn", "datamodule=audio_folder", f"datamodule.path={sounds}", "trainer.limit_train_batches=null"
    )
    result = run([*overrides, "trainer.max_epochs=8", "optimizer.lr=1e-2"], verbose=False)
    takes = [str(sounds / name / "take 1.WAV") for name in ("low", "high")]
    assert [found["prediction"] for found in predict(result.folder, takes)] == ["low", "high"]
    with pytest.raises(UserError, match=r"none\.wav"):
        predict(result.folder, ["none.wav"])


# ---- the spoken digits ---------------------------------------------------------------------------------------------


def digits(folder: Path, **changes) -> FSDD:
    small = {"seconds": 0.3, "sample_rate": 8000, "n_fft": 256, "hop": 80, "n_mels": 20, "verify": False}
    return FSDD(**small | changes, data_dir=folder)


@pytest.fixture
def recordings(tmp_path, tone) -> Path:
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for i in range(7):
                tone(tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{i}.wav", 200 + 100 * digit, 0.1, seed=i)
    return tmp_path


def test_the_test_set_is_index_0_to_4(recordings):
    parts = {
        name: {path.stem for path, _ in part} for name, part in digits(recordings, val_fraction=0.5).files().items()
    }
    assert [path.name for path in (recordings / "fsdd").iterdir()] == ["recordings"], "nothing is written beside them"
    assert parts["test"] == {f"{d}_{s}_{i}" for d in range(10) for s in ("ann", "bob") for i in range(5)}
    for name in ("train", "val"):  # one of each digit and speaker
        assert len(parts[name]) == 20 and len({stem.rpartition("_")[0] for stem in parts[name]}) == 20
    assert not parts["train"] & parts["val"]


def test_missing_recordings_are_named_with_their_home(recordings, tmp_path):
    home = "https://github.com/Jakobovski/free-spoken-digit-dataset"
    (recordings / "fsdd" / "recordings" / "7_bob_3.wav").unlink()
    with pytest.raises(UserError, match=rf"1 recordings are missing in .*: 7_bob_3\.wav\.\n.*{home}"):
        digits(recordings).setup()


def test_a_recording_of_a_huge_index_is_no_loop_over_all_before_it(recordings):
    folder = recordings / "fsdd" / "recordings"
    copy(folder / "7_bob_3.wav", folder / f"7_bob_{10**12}.wav")
    with pytest.raises(UserError, match=r"recordings are missing in .*, …\."):
        digits(recordings).setup()


def test_recordings_are_downloaded_by_their_names_alone(recordings, tmp_path, monkeypatch):
    folder = recordings / "fsdd" / "recordings"
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in [*sorted(folder.iterdir()), folder / "0_ann_0.wav"]:
            tar.add(path, f"dataset-1.0/recordings/{path.name}")
        for name in ("../../evil.wav", "dataset-1.0/recordings/../../evil.wav", "dataset-1.0/other/9_eve_9.wav"):
            tar.add(folder / "0_ann_0.wav", name)
    contents = b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir()))
    monkeypatch.setattr(fsdd, "CHECKSUM", hashlib.sha256(contents).hexdigest())
    monkeypatch.setattr(fsdd, "SPEAKERS", ("ann", "bob"))
    monkeypatch.setattr(fsdd, "REPETITIONS", 7)
    monkeypatch.setattr(downloads, "fetch", lambda url, partial: copy(archive, partial))
    home = tmp_path / "home"
    found = digits(home, verify=True, val_fraction=0.5).files()
    assert sum(map(len, found.values())) == 140
    assert {path.name for path in (home / "fsdd").iterdir()} == {".download.lock", "recordings"}
    assert not list(tmp_path.rglob("evil.wav")) and len(list(home.rglob("*.wav"))) == 140
    (home / "fsdd" / "recordings" / "3_ann_2.wav").write_bytes(b"other")
    with pytest.raises(UserError, match="differ from those of version 1"):
        digits(home, verify=True, val_fraction=0.5).files()
    monkeypatch.setattr(fsdd, "CHECKSUM", "0")
    with pytest.raises(UserError, match=r"recordings is missing, and the downloaded .* bytes are not"):
        digits(tmp_path / "third", verify=True).files()


def test_one_speaker_is_not_the_whole_set(tone, tmp_path):
    for digit in range(10):
        for i in range(8):
            tone(tmp_path / "fsdd" / "recordings" / f"{digit}_george_{i}.wav", 200, 0.1, seed=i)
    with pytest.raises(UserError, match="2,920 recordings are missing"):
        digits(tmp_path, verify=True).files()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "fsdd").is_dir(), reason="the real recordings are not here")
def test_the_real_recordings_have_their_usual_split():
    data = digits(REAL, seconds=1.0, n_mels=40, verify=True)
    assert {name: len(part) for name, part in data.files().items()} == {"train": 2280, "val": 420, "test": 300}
    data.setup()
    assert torch.equal(torch.bincount(data.split("test").y), torch.full((10,), 30))
    assert data.split("test").x.shape == (300, 1, 101, 40) and np.isfinite(data.split("train").x.numpy()).all()
