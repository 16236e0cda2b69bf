"""Log-mel spectrogram: what a sound is made of, frame by frame, on the ear's scale of pitch."""

import math

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.resources import refuse_too_much

FLOOR = 1e-5
"""The least energy of a band, so that silence has a logarithm."""


def to_mel(hertz: Tensor) -> Tensor:
    """Return pitch in mel: 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595 * torch.log10(1 + hertz / 700)


def to_hertz(mel: Tensor) -> Tensor:
    """Return the frequency of a pitch in mel, the inverse of `to_mel`."""
    return 700 * (10 ** (mel / 2595) - 1)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Return triangular filters [n_fft // 2 + 1, n_mels] from 0 to half the sample rate, evenly spaced in mel.

    Each rises from its lower neighbour's centre to 1 at its own and falls to its upper neighbour's.

    Raises:
        UserError: if a filter is so narrow that no frequency of the transform lies in it.
    """
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64).unsqueeze(1)
    highest = to_mel(torch.tensor(sample_rate / 2, dtype=torch.float64)).item()
    corners = to_hertz(torch.linspace(0, highest, n_mels + 2, dtype=torch.float64))
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise UserError(
            f"datamodule.n_mels={n_mels}: with datamodule.n_fft={n_fft} at {sample_rate} Hz some bands hold no frequency; "
            "fewer bands or a larger n_fft"
        )
    return filters.float()


class LogMel(nn.Module):
    """Logarithm of the energy in mel bands of overlapping Hann windows.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_fft: samples of a window.
        hop: samples from one window to the next; the windows are centred at multiples of it, beyond the ends is silence.
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
        refuse_too_much(  # of complex numbers, and as many real ones
            12 * count * frames * (self.n_fft // 2 + 1),
            f"datamodule.n_fft={self.n_fft}, .hop={self.hop}: the spectra of {count:,} sounds",
        )
        spectrum = torch.stft(
            waveforms, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        return (spectrum.abs().square().transpose(1, 2) @ self.filters).clamp(min=FLOOR).log()


class Frames(nn.Module):
    """The waveform itself, cut into frames that do not overlap.

    Args:
        size: samples of a frame; the last one is filled up with zeros.
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
