"""Log-mel spectrogram: energy per frame and frequency band, on the mel scale."""

import math

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.resources import check_memory

MIN_ENERGY = 1e-5
"""Smallest energy of a band, so that the logarithm of silence is finite."""


def to_mel(hertz: Tensor) -> Tensor:
    """Return pitch in mel: 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595 * torch.log10(1 + hertz / 700)


def to_hertz(mel: Tensor) -> Tensor:
    """Return the frequency of a pitch in mel, the inverse of `to_mel`."""
    return 700 * (10 ** (mel / 2595) - 1)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Return triangular filters [n_fft // 2 + 1, n_mels] from 0 to half the sample rate, evenly spaced in mel.

    Each filter rises from 0 at the centre of its lower neighbour to 1 at its own centre, and falls to 0 at the centre of its
    upper neighbour.

    Raises:
        UserError: if a filter is so narrow that it contains no frequency of the transform.
    """
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64).unsqueeze(1)
    highest = to_mel(torch.tensor(sample_rate / 2, dtype=torch.float64)).item()
    corners = to_hertz(torch.linspace(0, highest, n_mels + 2, dtype=torch.float64))
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise UserError(
            f"datamodule.n_mels={n_mels}: with datamodule.n_fft={n_fft} at {sample_rate} Hz some bands contain no frequency; "
            "reduce n_mels or increase n_fft"
        )
    return filters.float()


class LogMel(nn.Module):
    """Logarithm of the energy in mel bands of overlapping Hann windows.

    Args:
        sample_rate: sample rate of the waveforms in Hz.
        n_fft: window length in samples.
        hop: samples between windows; windows are centred at multiples of it, with silence beyond the ends.
        n_mels: number of bands.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, n_mels), persistent=False)

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform."""
        return samples // self.hop + 1

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map waveforms [B, samples] to [B, frames, n_mels]."""
        count, frames = len(waveforms), self.frames(waveforms.size(1))
        check_memory(  # complex and real numbers
            12 * count * frames * (self.n_fft // 2 + 1),
            f"datamodule.n_fft={self.n_fft}, .hop={self.hop}: the spectra of {count:,} sounds",
        )
        spectrum = torch.stft(
            waveforms, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        return (spectrum.abs().square().transpose(1, 2) @ self.filters).clamp(min=MIN_ENERGY).log()


class Frames(nn.Module):
    """The waveform, divided into frames that do not overlap.

    Args:
        size: samples per frame; the last frame is padded with zeros.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform."""
        return math.ceil(samples / self.size)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map waveforms [B, samples] to [B, frames, size]."""
        padding = -waveforms.size(1) % self.size
        return nn.functional.pad(waveforms, (0, padding)).unflatten(1, (-1, self.size))
