"""Each augmentation of waveforms against its parameter, on pure tones, and only in training."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.config.compose import compose
from src.config.schema.regularization import AudioAugmentation as Knobs
from src.config.validate import check
from src.core.errors import UserError
from src.datamodules.audio.audio_folder import AudioFolder
from src.regularization.audio_augmentation import AudioAugmentation
from src.regularization.example_augmentation import example_augmentation

RATE, HERTZ = 8000, 440.0
TONE = (0.5 * np.sin(2 * np.pi * HERTZ * np.arange(RATE) / RATE)).astype(np.float32)
OFF = {"probability": 1.0, "time_stretch": 0.0, "pitch_shift": 0.0, "noise_snr": None}


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)


def augmentation(**knobs) -> AudioAugmentation:
    return AudioAugmentation(Knobs(**OFF | knobs))


def frequency(wave: np.ndarray) -> float:
    """Return the frequency of the highest peak of the spectrum, to 0.1 Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 10 * RATE))
    return float(spectrum.argmax()) / 10


@pytest.mark.req("G8")
def test_time_stretch_divides_the_length_and_preserves_the_pitch() -> None:
    stretch = augmentation(time_stretch=0.3)
    rates = []
    for _ in range(50):
        wave = stretch(TONE, RATE)
        rates.append(stretch.steps[0].parameters["rate"])
        assert len(wave) == pytest.approx(len(TONE) / rates[-1], abs=1)
        assert frequency(wave) == pytest.approx(HERTZ, abs=1)
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert 0.7 <= min(rates) < 0.75 and 1.25 < max(rates) <= 1.3


@pytest.mark.req("G8")
def test_pitch_shift_multiplies_the_frequency_and_preserves_the_length() -> None:
    shift = augmentation(pitch_shift=5.0)
    semitones = []
    for _ in range(50):
        wave = shift(TONE, RATE)
        semitones.append(shift.steps[0].parameters["num_semitones"])
        assert len(wave) == len(TONE)
        assert frequency(wave) == pytest.approx(HERTZ * 2 ** (semitones[-1] / 12), rel=0.004)
    assert -5 <= min(semitones) < -4 and 4 < max(semitones) <= 5


@pytest.mark.req("G8")
@pytest.mark.parametrize("decibels", [0.0, 10.0, 30.0])
def test_noise_has_the_configured_ratio_and_is_white(decibels: float) -> None:
    noise = augmentation(noise_snr=[decibels, decibels])(TONE, RATE).astype(np.float64) - TONE
    ratio = 10 * np.log10(np.mean(TONE.astype(np.float64) ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(decibels, abs=0.3)
    halves = np.abs(np.fft.rfft(noise)) ** 2
    assert halves[1:2000].mean() == pytest.approx(halves[2000:].mean(), rel=0.15)
    assert abs(np.corrcoef(noise, TONE)[0, 1]) < 0.05


@pytest.mark.req("G8")
def test_noise_ratios_are_within_the_range_and_silence_is_unchanged() -> None:
    noisy = augmentation(noise_snr=[10.0, 40.0])
    ratios = [10 * np.log10(np.mean(TONE**2) / np.mean((noisy(TONE, RATE) - TONE) ** 2)) for _ in range(100)]
    assert 9.5 < min(ratios) < 13 and 37 < max(ratios) < 40.5
    assert not noisy(np.zeros(100, np.float32), RATE).any()


@pytest.mark.req("G8")
def test_audio_augmentation_is_applied_with_its_probability() -> None:
    rare = augmentation(probability=0.25, noise_snr=[10.0, 10.0])
    changed = sum(not np.array_equal(rare(TONE[:100], RATE), TONE[:100]) for _ in range(2000))
    assert changed / 2000 == pytest.approx(0.25, abs=0.03)


@pytest.fixture
def data(tmp_path, tone) -> AudioFolder:
    for name, hertz in (("low", 300), ("high", 1500)):
        for i in range(10):
            tone(tmp_path / name / f"{i}.wav", hertz, 0.2, seed=i)
    changes = augmentation(time_stretch=0.2, pitch_shift=2.0, noise_snr=[10.0, 20.0])
    return sounds(tmp_path, augmentation=changes, batch_size=4, shuffle=False)


def sounds(folder: Path, **more: Any) -> AudioFolder:
    return AudioFolder(folder, sample_rate=RATE, seconds=0.3, n_fft=256, hop=80, n_mels=20, **more)


@pytest.mark.req("G8")
def test_only_training_sounds_are_augmented_differently_in_each_epoch(data: AudioFolder) -> None:
    plain = data.loader("train")
    first, second = (torch.cat([batch.x for batch in data.train_dataloader()]) for _ in range(2))
    own = torch.cat([batch.x for batch in plain])
    assert first.shape == second.shape == own.shape == data.split("train").x.shape
    for a, b in ((first, second), (first, own)):
        assert all((x - y).abs().max() > 0.1 for x, y in zip(a, b, strict=True)), "every sound differs"
    labels = torch.cat([batch.y for batch in data.train_dataloader()])
    assert torch.equal(labels, data.split("train").y)
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        assert torch.equal(torch.cat([batch.x for batch in loader]), data.split(name).x)
    unchanged = sounds(data.paths["train"])
    assert torch.equal(unchanged.split("val").x, data.split("val").x), "fitted on the original sounds"


@pytest.mark.req("G8")
def test_random_state_determines_the_augmentation(data: AudioFolder) -> None:
    def epoch() -> torch.Tensor:
        random.seed(7)
        np.random.seed(7)
        return torch.cat([batch.x for batch in data.train_dataloader()])

    assert torch.equal(epoch(), epoch())


@pytest.mark.req("G8")
def test_stretched_sound_is_longer_within_its_clip(data: AudioFolder) -> None:
    """0.2 of 0.3 seconds are sound; the rest is silence, where a band has its minimum."""
    stretched = augmentation(time_stretch=0.2)
    stretched.steps[0].min_rate = stretched.steps[0].max_rate = 0.8
    data = sounds(data.paths["train"], augmentation=stretched)
    own = data.split("train").x
    longer = data.augmented(torch.arange(len(own)))
    frames = [(x[:, 0] > x.amin() + 0.5).any(2).sum(1) for x in (own, longer)]
    assert all(ratio == pytest.approx(1.25, abs=0.12) for ratio in (frames[1] / frames[0]).tolist())


def test_data_without_waveforms_are_rejected() -> None:
    with pytest.raises(UserError, match=r"regularization\.audio\.time_stretch .* digits has none.*audio_folder, fsdd"):
        check(compose(["regularization=audio_augmentation"]))
    knobs = check(compose(["datamodule=fsdd", "regularization=audio_augmentation"])).regularization
    with pytest.raises(UserError, match=r"regularization\.audio\.time_stretch changes waveforms, and these data"):
        example_augmentation(knobs, None, lambda path: None)
    with pytest.raises(
        UserError, match=r"regularization\.audio: noise_snr=\[30\.0, 10\.0\]: the first number must not be above"
    ):
        check(compose(["datamodule=fsdd", "regularization.audio.noise_snr=[30.0,10.0]"]))


def test_missing_library_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "audiomentations", None)
    with pytest.raises(UserError, match=r'audiomentations: pip install -c constraints.txt -e "\.\[audio\]"'):
        augmentation(pitch_shift=1.0)
