"""Read WAV files as waveforms; errors name the file."""

import math
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor

from src.core.errors import UserError
from src.core.resources import check_memory
from src.datamodules.io.limited_reader import LimitedReader
from src.datamodules.io.numeric_table import MAX_VALUE

MAX_FILE_BYTES = 2**29
"""Largest size of a WAV file."""
MAX_SAMPLES = 2**27
"""Largest number of samples of a sound, over all channels and after resampling: 46 minutes at 48 kHz."""
RATES = 1_000, 768_000
"""Smallest and largest allowed sample rate in Hz."""
MAX_DENOMINATOR = 1000
"""Largest denominator of a resampling ratio, unless the ratio itself needs a larger one: exact for the usual rates, and the
length of the filter grows with it."""
MAX_READS = 10_000
"""Largest number of reads per file, several for each of its chunks; a file of zeros has millions of empty chunks."""
BLOCK_SAMPLES = 1 << 20
"""Samples that are converted at once, over all channels."""


def read_wave(path: Path, sample_rate: int | None = None, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Return a waveform [samples] float32, from -1 to 1, and its sample rate; channels are averaged.

    Args:
        path: a WAV file of 8, 16, 24 or 32-bit integers, or floating-point numbers.
        sample_rate: target rate in Hz; None: no resampling.
        seconds: read at most this much from the start of the file; None: all of it.

    Raises:
        UserError: if the file is not such a WAV file, is truncated or empty, has an invalid sample rate, more than
            `MAX_SAMPLES` samples, or a sample that is not a number.
    """
    try:
        with warnings.catch_warnings():  # scipy warns of truncated files and of unknown chunks
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            with LimitedReader(path, MAX_FILE_BYTES, MAX_READS) as file:
                rate, samples = wavfile.read(file)
    except wavfile.WavFileWarning as error:
        raise UserError(f"{path}: this WAV file is truncated: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # scipy raises any exception for damaged files
        raise UserError(
            f"{path}: this is not a readable WAV file ({error}); convert it with ffmpeg -i IN OUT.wav"
        ) from error
    if not samples.size or not rate:
        raise UserError(f"{path}: this WAV file has no samples")
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{path}: {rate:,} samples per second; the rate must be {RATES[0]:,} to {RATES[1]:,}")
    if seconds is not None:
        samples = samples[: math.ceil(seconds * int(rate))]
    length = samples.size if sample_rate is None else max(samples.size, len(samples) * sample_rate // int(rate))
    if length > MAX_SAMPLES:
        raise UserError(f"{path}: {length:,} samples; a sound has at most {MAX_SAMPLES:,}. Split it into shorter files")
    frames = max(BLOCK_SAMPLES // (samples.size // len(samples)), 1)
    wave = np.concatenate([_to_mono(samples[start : start + frames], path) for start in range(0, len(samples), frames)])
    if sample_rate is not None and rate != sample_rate:
        from scipy.signal import resample_poly  # takes a second to import

        ratio = Fraction(sample_rate, int(rate)).limit_denominator(max(MAX_DENOMINATOR, int(rate) // sample_rate + 1))
        wave, rate = resample_poly(wave, ratio.numerator, ratio.denominator), sample_rate
    return wave.astype(np.float32), int(rate)


def _to_mono(samples: np.ndarray, path: Path) -> np.ndarray:
    """Convert samples [N] or [N, channels] to mono floats from -1 to 1 [N].

    Integers are mapped to [-1, 1): 8-bit integers are unsigned, and 24-bit ones fill the upper part of 32 bits.
    """
    wave = samples.astype(np.float64)
    if samples.dtype == np.uint8:
        wave = (wave - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        wave /= -float(np.iinfo(samples.dtype).min)
    if not (np.abs(wave) <= MAX_VALUE).all():
        raise UserError(f"{path}: a sample of this WAV file is not a number up to {MAX_VALUE:g}")
    return wave.mean(1) if wave.ndim > 1 else wave


def stack_waves(waves: list[np.ndarray], length: int) -> Tensor:
    """Stack waveforms to [B, length]: longer ones are truncated, shorter ones padded with silence."""
    check_memory(4 * len(waves) * length, f"{len(waves):,} sounds of {length:,} samples")
    result = torch.zeros(len(waves), length)
    for row, wave in zip(result, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave[:length])
    return result
