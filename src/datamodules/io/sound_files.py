"""Read sound files (WAV, FLAC, OGG, MP3, AIFF) as waveforms; errors name the file."""

import math
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.files import open_data_file
from src.core.resources import check_memory
from src.datamodules.io.numeric_table import MAX_VALUE

ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au")
"""File extensions of sounds."""
MAX_FILE_BYTES = 2**29
"""Largest size of a sound file."""
MAX_SAMPLES = 2**27
"""Largest number of samples of a sound, over all channels and after resampling: 46 minutes at 48 kHz."""
RATES = 1_000, 768_000
"""Smallest and largest allowed sample rate in Hz."""
MAX_DENOMINATOR = 1000
"""Largest denominator of a resampling ratio, unless the ratio itself needs a larger one: exact for the usual rates, and the
length of the filter grows with it."""
BLOCK_SAMPLES = 1 << 20
"""Samples that are read at once, over all channels."""
UNKNOWN_LENGTHS = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""Lengths in the header of a WAV file that was written to a pipe: the samples end with the file."""
_DATA_CHUNK = re.compile(r"^data : (\d+) \(should be \d+\)", re.MULTILINE)


def read_wave(path: Path, sample_rate: int | None = None, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Return a waveform [samples] float32, from -1 to 1, and its sample rate; channels are averaged.

    Args:
        path: a sound file that libsndfile reads.
        sample_rate: target rate in Hz; None: no resampling.
        seconds: read at most this much from the start of the file; None: all of it.

    Raises:
        UserError: if the file is not such a file, is truncated or empty, has an invalid sample rate, more than
            `MAX_SAMPLES` samples, or a sample that is not a number.
    """
    try:
        with open_data_file(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise UserError(f"{path}: this file has more than {MAX_FILE_BYTES / 2**20:,.0f} MiB")
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                wave, rate = _read(sound, path, sample_rate, seconds), int(sound.samplerate)
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror or error}") from error
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition("Error opening ")[2].partition(": ")[2] or str(error)
        raise UserError(f"{path}: this is not a readable sound file ({reason.rstrip('.')})") from error
    if sample_rate is not None and rate != sample_rate:
        from scipy.signal import resample_poly  # takes a second to import

        ratio = Fraction(sample_rate, rate).limit_denominator(max(MAX_DENOMINATOR, rate // sample_rate + 1))
        wave, rate = resample_poly(wave, ratio.numerator, ratio.denominator), sample_rate
    return wave.astype(np.float32), rate


def _read(sound: soundfile.SoundFile, path: Path, sample_rate: int | None, seconds: float | None) -> np.ndarray:
    """Return the samples of an open file as mono floats from -1 to 1 [N]."""
    rate, frames = int(sound.samplerate), int(sound.frames)
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{path}: {rate:,} samples per second; the rate must be {RATES[0]:,} to {RATES[1]:,}")
    length = _DATA_CHUNK.search(sound.extra_info)
    if length is not None and int(length[1]) not in UNKNOWN_LENGTHS:
        raise UserError(
            f"{path}: this sound file is truncated: its header promises {int(length[1]):,} bytes of samples"
        )
    if seconds is not None:
        frames = min(frames, math.ceil(seconds * rate))
    samples = frames * sound.channels
    samples = samples if sample_rate is None else max(samples, frames * sample_rate // rate)
    if samples > MAX_SAMPLES:
        raise UserError(
            f"{path}: {samples:,} samples; a sound has at most {MAX_SAMPLES:,}. Split it into shorter files"
        )
    blocks, block = [], max(BLOCK_SAMPLES // sound.channels, 1)
    while frames > 0:
        values = sound.read(min(block, frames), dtype="float64", always_2d=True)  # [frames, channels]
        if not len(values):
            break
        if not (np.abs(values) <= MAX_VALUE).all():
            raise UserError(f"{path}: a sample of this sound file is not a number up to {MAX_VALUE:g}")
        blocks.append(values.mean(1))
        frames -= len(values)
    if not blocks:
        raise UserError(f"{path}: this sound file has no samples")
    return np.concatenate(blocks)


def stack_waves(waves: list[np.ndarray], length: int) -> Tensor:
    """Stack waveforms to [B, length]: longer ones are truncated, shorter ones padded with silence."""
    check_memory(4 * len(waves) * length, f"{len(waves):,} sounds of {length:,} samples")
    result = torch.zeros(len(waves), length)
    for row, wave in zip(result, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave[:length])
    return result
