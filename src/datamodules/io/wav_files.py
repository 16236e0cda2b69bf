"""WAV files as waveforms, refused by name where they cannot be used."""

import io
import math
import os
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor

from src.core.errors import UserError
from src.core.files import open_data_file
from src.core.resources import refuse_too_much
from src.datamodules.io.numeric_table import LARGEST

LARGEST_FILE = 2**29
"""Bytes of the largest WAV file."""
MAX_SAMPLES = 2**27
"""The most samples of a sound, of all channels and after resampling: 46 minutes at 48 kHz."""
RATES = 1_000, 768_000
"""Samples a second that a sound may have."""
FINEST = 1000
"""The largest denominator of a ratio of rates, unless they are further apart: exact for the usual ones, and a filter's
length grows with it."""


MOST_READS = 10_000
"""Parts in which a file is read, several for each of its chunks; a file of zeros has millions of empty chunks."""
AT_ONCE = 1 << 20
"""Samples that are converted at once, of all channels."""


class _Parts(io.BufferedReader):
    """A file that can be read in `MOST_READS` parts."""

    left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has too many chunks")
        return super().read(size)


def read_wave(path: Path, sample_rate: int | None = None, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Return a waveform [samples] float32, from -1 to 1, and its sample rate; channels are averaged.

    Args:
        path: of a WAV file: 8, 16, 24 or 32 bits of integers, or floating-point numbers.
        sample_rate: resample to it, in Hz; None keeps the file's own.
        seconds: the most that is taken of the file, from its beginning; None takes all of it.

    Raises:
        UserError: if the file is no such WAV, cut off, without samples, of a rate that no sound has, of more than `MAX_SAMPLES`,
            or if a sample is no number.
    """
    try:
        with warnings.catch_warnings():  # scipy warns of a file that ends too soon, and of chunks that it passes over
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            with _Parts(open_data_file(path).detach()) as file:  # type: ignore[attr-defined]  # of a buffered file
                if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                    raise UserError(f"{path}: this file has more than {LARGEST_FILE / 2**20:,.0f} MiB")
                rate, samples = wavfile.read(file)
    except wavfile.WavFileWarning as error:
        raise UserError(f"{path}: this WAV file is cut off: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror or error}") from error
    except (
        ValueError,
        struct.error,
        EOFError,
        UnboundLocalError,
        OverflowError,
        MemoryError,
        ZeroDivisionError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path}: this is no WAV file that can be read ({error}); ffmpeg -i IN OUT.wav makes one"
        ) from error
    if not samples.size or not rate:
        raise UserError(f"{path}: there is no sound in this WAV file")
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{path}: {rate:,} samples a second; {RATES[0]:,} to {RATES[1]:,} can be read")
    if seconds is not None:
        samples = samples[: math.ceil(seconds * int(rate))]
    length = samples.size if sample_rate is None else max(samples.size, len(samples) * sample_rate // int(rate))
    if length > MAX_SAMPLES:
        raise UserError(f"{path}: {length:,} samples; a sound has at most {MAX_SAMPLES:,}. Cut it into shorter ones")
    frames = max(AT_ONCE // (samples.size // len(samples)), 1)
    wave = np.concatenate([_to_mono(samples[start : start + frames], path) for start in range(0, len(samples), frames)])
    if sample_rate is not None and rate != sample_rate:
        from scipy.signal import resample_poly  # takes a second to import

        ratio = Fraction(sample_rate, int(rate)).limit_denominator(max(FINEST, int(rate) // sample_rate + 1))
        wave, rate = resample_poly(wave, ratio.numerator, ratio.denominator), sample_rate
    return wave.astype(np.float32), int(rate)


def _to_mono(samples: np.ndarray, path: Path) -> np.ndarray:
    """Return samples [N] or [N, channels] as numbers from -1 to 1 [N]."""
    wave = _to_unit(samples)
    if not (np.abs(wave) <= LARGEST).all():
        raise UserError(f"{path}: a sample of this WAV file is no number up to {LARGEST:g}")
    return wave.mean(1) if wave.ndim > 1 else wave


def _to_unit(samples: np.ndarray) -> np.ndarray:
    """Map integers to [-1, 1); 8 bits are unsigned, and 24 fill the upper part of 32."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def fitted(waves: list[np.ndarray], length: int) -> Tensor:
    """Return waveforms of one length [B, length]: longer ones are cut at their end, shorter ones filled with silence."""
    refuse_too_much(4 * len(waves) * length, f"{len(waves):,} sounds of {length:,} samples")
    result = torch.zeros(len(waves), length)
    for row, wave in zip(result, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave[:length])
    return result
