"""The spectrogram against librosa, and against what is known of pure tones."""

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.datamodules.audio.log_mel import MIN_ENERGY, Frames, LogMel, mel_filters, to_hertz, to_mel

SIZES = [(8000, 256, 80, 40), (16000, 512, 160, 64), (22050, 1024, 256, 80)]


@pytest.mark.parametrize(("rate", "n_fft", "hop", "n_mels"), SIZES)
def test_it_is_librosa_s(rate, n_fft, hop, n_mels):
    librosa = pytest.importorskip("librosa")
    wave = np.random.default_rng(0).normal(0, 0.1, rate // 2).astype(np.float32)
    expected = librosa.feature.melspectrogram(
        y=wave, sr=rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels, htk=True, norm=None, pad_mode="constant"
    ).T
    layer = LogMel(rate, n_fft, hop, n_mels)
    found = layer(torch.from_numpy(wave)[None])[0]
    assert found.shape == expected.shape == (layer.frames(len(wave)), n_mels)
    np.testing.assert_allclose(found.numpy(), np.log(np.maximum(expected, MIN_ENERGY)), rtol=1e-4, atol=1e-4)


def test_mel_is_linear_below_and_logarithmic_above():
    assert to_mel(torch.tensor([0.0, 1000.0], dtype=torch.float64)).tolist() == pytest.approx([0, 1000], abs=0.02)
    hertz = torch.tensor([50.0, 700.0, 6300.0], dtype=torch.float64)
    torch.testing.assert_close(to_hertz(to_mel(hertz)), hertz)
    assert to_mel(torch.tensor(6300.0)).item() == pytest.approx(2595, rel=1e-6)  # 700 · 10 - 700


def test_neighbouring_filters_add_up_to_one_between_the_outermost_centres():
    filters = mel_filters(16000, 2048, 20).double()
    outermost = to_hertz(torch.linspace(0, to_mel(torch.tensor(8000.0)).item(), 22))[[1, -2]]
    hertz = torch.linspace(0, 8000, 1025)
    inside = filters[(hertz > outermost[0]) & (hertz < outermost[1])].sum(1)
    torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_its_band_and_louder_by_its_energy(hertz):
    rate, n_mels = 8000, 20
    wave = torch.sin(2 * torch.pi * hertz * torch.arange(rate) / rate)[None]
    layer = LogMel(rate, 512, 128, n_mels)
    quiet, loud = layer(0.1 * wave)[0, 20:40], layer(wave)[0, 20:40]
    centres = to_hertz(torch.linspace(0, to_mel(torch.tensor(rate / 2)).item(), n_mels + 2))[1:-1]
    nearest = (to_mel(centres) - to_mel(torch.tensor(hertz))).abs().argmin()
    assert (loud.argmax(1) == nearest).all()
    torch.testing.assert_close((loud - quiet)[:, nearest], torch.full((20,), 2 * np.log(10), dtype=torch.float32))


def test_silence_is_the_floor():
    assert (LogMel(8000, 256, 80, 40)(torch.zeros(1, 800)) == float(np.log(np.float32(MIN_ENERGY)))).all()


def test_bands_without_a_frequency_are_refused():
    with pytest.raises(UserError, match=r"n_mels=128: with datamodule\.n_fft=256 at 8000 Hz"):
        mel_filters(8000, 256, 128)


def test_frames_hold_every_sample_in_order():
    wave = torch.arange(1.0, 11)[None]
    frames = Frames(4)(wave)
    assert frames.shape == (1, Frames(4).frames(10), 4)
    assert frames.flatten().tolist() == [*range(1, 11), 0, 0]
