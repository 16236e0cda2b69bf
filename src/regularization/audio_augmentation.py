"""Audio augmentation of waveforms with audiomentations (textbook, Data Augmentation)."""

from typing import Any

import numpy as np

from src.config.schema.regularization import AudioAugmentation as Knobs
from src.core.errors import UserError


class AudioAugmentation:
    """Stretches time, shifts pitch and adds noise, in this order, with random numbers of Python's and NumPy's generators.

    Args:
        knobs: strengths; conf/train.yaml describes their units.

    Raises:
        UserError: if audiomentations is not installed.
    """

    def __init__(self, knobs: Knobs) -> None:
        try:
            import audiomentations
        except ImportError as error:
            raise UserError(
                'regularization.audio needs the package audiomentations: pip install -c constraints.txt -e ".[audio]"'
            ) from error
        steps: list[Any] = []
        p = knobs.probability
        if knobs.time_stretch:
            slowest, fastest = 1 - knobs.time_stretch, 1 + knobs.time_stretch
            steps.append(audiomentations.TimeStretch(slowest, fastest, leave_length_unchanged=False, p=p))
        if knobs.pitch_shift:
            steps.append(audiomentations.PitchShift(-knobs.pitch_shift, knobs.pitch_shift, p=p))
        if knobs.noise_snr is not None:
            steps.append(audiomentations.AddGaussianSNR(*knobs.noise_snr, p=p))
        self.steps = steps

    def __call__(self, wave: np.ndarray, sample_rate: int) -> np.ndarray:
        """Augment a waveform [samples] float32 and return it as [samples / rate]; only time stretching changes the length."""
        for step in self.steps:
            wave = step(wave, sample_rate)
        return wave
