"""A folder of sound files of the user: clips of equal length, their features, and waveform augmentation."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.audio.log_mel import Frames, LogMel
from src.datamodules.io.sound_files import ENDINGS, read_wave, stack_waves
from src.datamodules.labelled_files import LabelledFiles
from src.datamodules.preparation import size
from src.datamodules.standardizer import Standardizer

STRETCH, MARGIN = 2, 1.0
"""Part of a file that is read: this multiple of the clip length, which time stretching may need, plus this many seconds, in
which the filters of resampling and pitch shifting decay."""
BLOCK_CLIPS = 256
"""Clips whose features are computed at once; limits the memory of their spectra."""


class AudioFolder(LabelledFiles):
    """Sound files of a folder. A clip is an image [1, frames, columns] whose rows are frames in temporal order, so that
    convolutional networks process it as an image, and recurrent networks and transformers frame by frame.

    Args:
        path: the data folder.
        sample_rate: in Hz; files of other rates are resampled. None: the common rate of all files.
        seconds: length of a clip: longer files are truncated, shorter ones padded with silence.
        features: ``log_mel``, standardised per band, or ``waveform``, standardised as a whole.
        n_fft: window length of the spectrogram in samples.
        hop: samples between frames, for both features.
        n_mels: number of bands of the spectrogram.
        common: other arguments of `LabelledFiles`.
    """

    raw = "audio"
    endings = ENDINGS
    kind = "a sound file"

    def __init__(
        self,
        path: Path,
        sample_rate: int | None = 16_000,
        seconds: float = 1.0,
        features: str = "log_mel",
        n_fft: int = 512,
        hop: int = 160,
        n_mels: int = 64,
        **common: Any,
    ) -> None:
        super().__init__(path, **common)
        self.sample_rate = sample_rate
        self.resamples = sample_rate is not None
        self.seconds = seconds
        self.features = features
        self.n_fft, self.hop, self.n_mels = n_fft, hop, n_mels

    def fit_shape(self, files: dict[str, list[Path]]) -> int:
        if self.sample_rate is None:
            self.read(files["train"][:1])
        return 4 * (self._length + prod(self.spec.input_shape))  # waveforms and features are in memory at the same time

    def read(self, files: Sequence[Path]) -> list[np.ndarray]:
        """Return the waveforms; the first file determines the sample rate if it is unknown."""
        waves = []
        for path in files:
            max_seconds = STRETCH * self.seconds + MARGIN
            wave, rate = read_wave(path, self.sample_rate if self.resamples else None, max_seconds)
            if self.sample_rate is None:
                self.sample_rate = rate
            if rate != self.sample_rate:
                raise UserError(
                    f"{path}: {rate} Hz, but the previous files have {self.sample_rate} Hz; "
                    f"datamodule.sample_rate={self.sample_rate} resamples the others"
                )
            waves.append(wave)
        return waves

    def augment(self, examples: list[np.ndarray]) -> list[np.ndarray]:
        if self.augmentation is None:
            return examples
        return [self.augmentation(wave, self.sample_rate) for wave in examples]

    def fit_scale(self, examples: list[np.ndarray]) -> Standardizer:
        return Standardizer.fit(self._features(examples).flatten(0, -2))

    def to_inputs(self, examples: list[np.ndarray]) -> Tensor:
        assert self.scale is not None
        standardized = self.scale.apply(self._features(examples))
        return (standardized.squeeze(-1) if self.features == "waveform" else standardized).unsqueeze(1)

    @property
    def _transform(self) -> LogMel | Frames:
        assert self.sample_rate is not None
        if self.features == "waveform":
            return Frames(self.hop)
        return LogMel(self.sample_rate, self.n_fft, self.hop, self.n_mels)

    @property
    def _length(self) -> int:
        """Return the number of samples of a clip."""
        assert self.sample_rate is not None
        return max(round(self.seconds * self.sample_rate), 1)

    def _features(self, waves: list[np.ndarray]) -> Tensor:
        """Return the features of clips: [B, frames, n_mels], or samples [B, frames, hop, 1] in one column."""
        transform: nn.Module = self._transform
        features = torch.cat([transform(clips) for clips in stack_waves(waves, self._length).split(BLOCK_CLIPS)])
        return features.unsqueeze(-1) if self.features == "waveform" else features

    @property
    def spec(self) -> DataSpec:
        columns = self.hop if self.features == "waveform" else self.n_mels
        shape = (1, self._transform.frames(self._length), columns)
        return DataSpec(self.task, self.inputs, shape, (len(self.classes),), class_names=self.classes)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state | {"sample_rate": self.sample_rate} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.sample_rate = size(state_dict, "sample_rate", 10**7)
