"""Base class of datamodules of labelled sounds: reading, clips of equal length, features, and waveform augmentation."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import fits_in_memory
from src.datamodules.audio.log_mel import Frames, LogMel
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.labelled_folder import Labelled, expand_folders
from src.datamodules.io.wav_files import read_wave, stack_waves
from src.datamodules.preparation import part, size, texts
from src.datamodules.standardizer import Standardizer

log = logging.getLogger(__name__)

ENDINGS = (".wav",)
SCALE_SAMPLES = 2000
"""Training sounds from which mean and deviation are computed if not all fit into memory."""
STRETCH, MARGIN = 2, 1.0
"""Part of a file that is read: this multiple of the clip length, which time stretching may need, plus this many seconds, in
which the filters of resampling and pitch shifting decay."""
BLOCK_CLIPS = 256
"""Clips whose features are computed at once; limits the memory of their spectra."""


class Audio(DataModule):
    """Labelled sounds. A clip is an image [1, frames, columns] whose rows are frames in temporal order, so that
    convolutional networks process it as an image, and recurrent networks and transformers frame by frame.

    If all sounds together need more than `memory_share` of the free memory, they are read batch by batch.

    Args:
        sample_rate: in Hz; files of other rates are resampled. None: the common rate of all files.
        seconds: length of a clip: longer files are truncated, shorter ones padded with silence.
        features: ``log_mel``, standardised per band, or ``waveform``, standardised as a whole.
        n_fft: window length of the spectrogram in samples.
        hop: samples between frames, for both features.
        n_mels: number of bands of the spectrogram.
        memory_share: share of the free memory; 0 always reads from the files.
        workers: reader processes if the data do not fit into memory; None: all cores but one.
        split_seed: seed of the splits that are drawn.
        val_fraction: share of the validation split, if it is drawn.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "image"
    supports_folds = True
    raw = "audio"

    def __init__(
        self,
        sample_rate: int | None = 16_000,
        seconds: float = 1.0,
        features: str = "log_mel",
        n_fft: int = 512,
        hop: int = 160,
        n_mels: int = 64,
        memory_share: float = 0.5,
        workers: int | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.sample_rate = sample_rate
        self.resamples = sample_rate is not None
        self.seconds = seconds
        self.features = features
        self.n_fft, self.hop, self.n_mels = n_fft, hop, n_mels
        self.memory_share, self.workers = memory_share, workers
        self.split_seed = split_seed
        self.val_fraction = val_fraction
        self.classes: tuple[str, ...] = ()
        self.scale: Standardizer | None = None
        self._training: list[np.ndarray] = []

    @abstractmethod
    def files(self) -> dict[str, list[Labelled]]:
        """Return path and class of each file of each split."""

    def load(self) -> dict[str, Batch]:
        files = self.files()
        if not self.classes:
            self.classes = classes_of((label for _, label in files["train"]), str(files["train"][0][0].parent))
        if self.sample_rate is None:
            self._read([files["train"][0][0]])
        labels = {
            name: class_numbers([label for _, label in part], self.classes, str(part[0][0].parent))
            for name, part in files.items()
        }
        if not self._fits(files):
            return self._load_streamed(files, labels)
        self.readers = {}
        waves = {name: self._read(path for path, _ in part) for name, part in files.items()}
        if self.augmentation is not None:
            self._training = waves["train"]
        if self.scale is None:
            self.scale = Standardizer.fit(self._features(waves["train"]).flatten(0, -2))
        return {name: LabelledBatch(self._inputs(waves[name]), y) for name, y in labels.items()}

    def _fits(self, files: dict[str, list[Labelled]]) -> bool:
        """Return whether waveforms and features of all files fit into memory at the same time."""
        count = sum(map(len, files.values()))
        needed = 4 * count * (self._length + prod(self.spec.input_shape))
        return fits_in_memory(needed, self.memory_share, f"{next(iter(files.values()))[0][0].parent}: {count:,} sounds")

    def _load_streamed(self, files: dict[str, list[Labelled]], labels: dict[str, Tensor]) -> dict[str, Batch]:
        paths = {name: tuple(path for path, _ in part) for name, part in files.items()}
        if self.scale is None:
            count = min(SCALE_SAMPLES, len(paths["train"]))
            sample = np.random.default_rng(self.split_seed).choice(len(paths["train"]), count, replace=False)
            log.info(
                "features are standardised with %s of %s training sounds", f"{count:,}", f"{len(paths['train']):,}"
            )
            self.scale = Standardizer.fit(self._features(self._read(paths["train"][i] for i in sample)).flatten(0, -2))
        source = copy(self)
        source.trainer, source._splits, source.readers = None, None, {}
        self.readers = {name: _SoundReader(source, part) for name, part in paths.items()}
        return {name: LabelledBatch(torch.arange(len(y)), y) for name, y in labels.items()}

    def _read(self, paths: Iterable[Path]) -> list[np.ndarray]:
        waves = []
        for path in paths:
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

    def _features(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Return the features of clips: [B, frames, n_mels], or samples [B, frames, hop, 1] in one column."""
        transform: nn.Module = self._transform
        parts = [transform(clips) for clips in stack_waves(list(waves), self._length).split(BLOCK_CLIPS)]
        return torch.cat(parts).unsqueeze(-1) if self.features == "waveform" else torch.cat(parts)

    def _inputs(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Return the inputs of a model [B, 1, frames, columns]."""
        assert self.scale is not None
        standardized = self.scale.apply(self._features(waves))
        return (standardized.squeeze(-1) if self.features == "waveform" else standardized).unsqueeze(1)

    def augmented(self, index: Tensor) -> Tensor:
        assert self.sample_rate is not None
        return self._inputs([self.augmentation(self._training[i], self.sample_rate) for i in index.tolist()])

    @property
    def spec(self) -> DataSpec:
        columns = self.hop if self.features == "waveform" else self.n_mels
        shape = (1, self._transform.frames(self._length), columns)
        return DataSpec(self.task, self.inputs, shape, (len(self.classes),), class_names=self.classes)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a WAV file, or a folder of them."""
        waves = self._read(map(Path, self.listed(inputs)))
        return LabelledBatch(self._inputs(waves), torch.zeros(len(waves), dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return expand_folders(inputs, ENDINGS)

    def example_inputs(self, count: int = 3) -> list[str]:
        return [str(path) for path, _ in self.files()["test"][:count]]

    def state_dict(self) -> dict[str, Any]:
        if self.scale is None:
            return {}
        return {"classes": list(self.classes), "sample_rate": self.sample_rate, "scale": self.scale.to_plain()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.classes = texts(state_dict, "classes")
        self.sample_rate = size(state_dict, "sample_rate", 10**7)
        self.scale = Standardizer.from_plain(part(state_dict, "scale"))


@dataclass(frozen=True)
class _SoundReader:
    """Reads sounds of a split by index.

    Args:
        source: the datamodule, without data and trainer, so that it can be sent to a worker.
        paths: files of the split.
    """

    source: Audio
    paths: tuple[Path, ...]

    def __call__(self, index: Tensor, augment: bool = False) -> Tensor:
        waves = self.source._read(self.paths[i] for i in index.tolist())
        if augment and self.source.augmentation is not None:
            assert self.source.sample_rate is not None
            waves = [self.source.augmentation(wave, self.source.sample_rate) for wave in waves]
        return self.source._inputs(waves)
