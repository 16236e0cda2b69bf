"""Sound files of every kind against the numbers that were written, and errors about those that cannot be read."""

import math
import re
import struct

import numpy as np
import pytest
import soundfile
import torch

from src.core.errors import UserError
from src.datamodules.io.sound_files import ENDINGS, UNKNOWN_LENGTHS, read_wave, stack_waves

SINE = np.sin(2 * np.pi * 440 * np.arange(1600) / 8000)


def riff(samples: bytes, bits: int, channels: int = 1, rate: int = 8000, kind: int = 1) -> bytes:
    """Write a WAV file by the book: a RIFF header, a format chunk and a data chunk."""
    width = bits // 8 * channels
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * width, width, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def integers(values: np.ndarray, bits: int) -> bytes:
    if bits == 8:
        return bytes((np.round(values * 127) + 128).astype(np.uint8))
    return b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in np.round(values * (2 ** (bits - 1) - 1)))


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integers_of_every_width(bits, tmp_path):
    (tmp_path / "a.wav").write_bytes(riff(integers(SINE, bits), bits))
    wave, rate = read_wave(tmp_path / "a.wav")
    assert rate == 8000 and wave.dtype == np.float32
    np.testing.assert_allclose(wave, SINE, atol=2.0 ** (2 - bits) + 1e-6)


@pytest.mark.parametrize("length", UNKNOWN_LENGTHS)
def test_a_wave_that_was_written_to_a_pipe_ends_with_the_file(length, tmp_path):
    content = riff(integers(SINE, 16), 16)
    (tmp_path / "a.wav").write_bytes(content[:40] + struct.pack("<I", length) + content[44:])
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav")[0], SINE, atol=1e-3)


@pytest.mark.parametrize(
    ("ending", "subtype", "tolerance"),
    [
        ("wav", "ULAW", 0.05),
        ("wav", "ALAW", 0.05),
        ("wav", "DOUBLE", 1e-6),
        ("flac", "PCM_16", 1e-4),
        ("flac", "PCM_24", 1e-6),
        ("aiff", "PCM_16", 1e-4),
        ("au", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.1),
        ("mp3", "MPEG_LAYER_III", None),
    ],
)
def test_other_formats(ending, subtype, tolerance, tmp_path):
    soundfile.write(tmp_path / f"a.{ending}", SINE, 8000, subtype)
    wave, rate = read_wave(tmp_path / f"a.{ending}")
    assert rate == 8000 and f".{ending}" in ENDINGS
    if tolerance is None:  # MP3 delays the samples, and pads them
        spectrum = np.abs(np.fft.rfft(wave[:1600]))
        assert len(wave) >= 1600 and np.fft.rfftfreq(1600, 1 / 8000)[spectrum.argmax()] == 440
    else:
        np.testing.assert_allclose(wave[100:-100], SINE[100:-100], atol=tolerance)


def test_the_start_of_a_file_is_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", SINE, 8000)
    wave, _ = read_wave(tmp_path / "a.flac", seconds=0.05)
    np.testing.assert_allclose(wave, SINE[:400], atol=1e-4)


def test_floats_and_channels(tmp_path):
    both = np.stack([SINE, np.zeros_like(SINE)], 1).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(riff(both.tobytes(), 32, channels=2, kind=3))
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav")[0], SINE / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [6000, 11025, 16000])
def test_resampling_keeps_the_tone_and_the_time(rate, tmp_path):
    (tmp_path / "a.wav").write_bytes(riff(integers(SINE, 16), 16))
    wave, given = read_wave(tmp_path / "a.wav", rate)
    assert given == rate and len(wave) == math.ceil(1600 * rate / 8000)
    inner = slice(rate // 50, -rate // 50)
    np.testing.assert_allclose(wave[inner], np.sin(2 * np.pi * 440 * np.arange(len(wave)) / rate)[inner], atol=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is not a readable sound file"),
        (b"ID3 this is an MP3", "this is not a readable sound file"),
        (riff(integers(SINE, 16), 16)[:30], "this is not a readable sound file"),
        (riff(integers(SINE, 16), 16)[:1000], "this sound file is truncated"),
        (riff(b"", 16), "this sound file has no samples|not a readable sound file"),
        (
            riff(np.array([0.0, np.nan], np.float32).tobytes(), 32, kind=3),
            "a sample of this sound file is not a number",
        ),
        (riff(np.array([0.0, 1e300]).tobytes(), 64, kind=3), "a sample of this sound file is not a number"),
    ],
    ids=["empty", "mp3", "header", "cut", "silent", "nan", "huge"],
)
def test_error_names_an_unusable_sound(content, message, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.wav")) + f": ({message})"):
        read_wave(tmp_path / "a.wav")


def test_error_names_a_missing_sound_or_a_folder(tmp_path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(UserError, match=f"{path}: this file cannot be read"):
            read_wave(path)


def test_unknown_chunks_are_ignored(tmp_path):
    content = riff(integers(SINE, 16), 16)
    note = b"note" + struct.pack("<I", 4) + b"abcd"
    (tmp_path / "a.wav").write_bytes(content[:12] + note + content[12:])
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav")[0], SINE, atol=1e-3)


def test_clips_are_truncated_or_padded_at_the_end():
    waves = [np.arange(1, 4, dtype=np.float32), np.arange(1, 8, dtype=np.float32)]
    assert torch.equal(stack_waves(waves, 5), torch.tensor([[1.0, 2, 3, 0, 0], [1, 2, 3, 4, 5]]))


@pytest.mark.parametrize("rate", [10, 999, 3_999_999, 2_000_000_011])
def test_invalid_sample_rates_are_rejected(rate, tmp_path):
    (tmp_path / "a.wav").write_bytes(riff(integers(SINE, 16), 16, rate=rate))
    with pytest.raises(UserError, match=rf"{rate:,} samples per second; the rate must be 1,000 to 768,000"):
        read_wave(tmp_path / "a.wav", 16_000)


def test_length_of_the_resampling_filter_is_limited(tmp_path, monkeypatch):
    import scipy.signal

    ratios = []
    resample = scipy.signal.resample_poly
    monkeypatch.setattr(
        scipy.signal, "resample_poly", lambda x, up, down: ratios.append((up, down)) or resample(x, up, down)
    )
    for rate, most in ((192_001, 1000), (44_100, 441), (8_000, 2)):
        time = np.arange(rate // 10) / rate
        (tmp_path / "a.wav").write_bytes(riff(integers(np.sin(2 * np.pi * 440 * time), 16), 16, rate=rate))
        wave, _ = read_wave(tmp_path / "a.wav", 16_000)
        assert max(ratios.pop()) <= most
        inner = slice(160, -160)
        expected = np.sin(2 * np.pi * 440 * np.arange(len(wave)) / 16_000)
        np.testing.assert_allclose(wave[inner], expected[inner], atol=0.01)
