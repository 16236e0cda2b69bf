"""Data that a config describes are refused before they fill the memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.datamodules.audio.log_mel import LogMel
from src.datamodules.base import DataModule
from src.datamodules.io.sound_files import stack_waves
from src.datamodules.synthetic.adding import Adding
from src.datamodules.synthetic.copy_task import Copy
from src.datamodules.synthetic.function import Function
from src.datamodules.synthetic.mackey_glass import MackeyGlass
from src.datamodules.synthetic.shapes import Shapes
from src.datamodules.timeseries.windows import Windows
from src.datamodules.tokenizers.vocabulary import pad
from src.datamodules.vision.image_folder import read_images
from src.layers.positional_encoding import MAX_PRECOMPUTED, SinusoidalPositions

HUGE: dict[str, Callable[[], DataModule]] = {
    "adding": lambda: Adding(lag=10**6, train_size=10**8),
    "copy": lambda: Copy(lag=10**6, train_size=10**8),
    "function": lambda: Function(train_size=10**8, val_size=10**8, test_size=10**8),
    "mackey_glass": lambda: MackeyGlass(length=10**6, window=10**6),
    "shapes": lambda: Shapes(side=1024, train_size=10**8),
}


@pytest.mark.parametrize("name", HUGE)
def test_generated_data_are_limited_to_16_gb(name: str) -> None:
    with pytest.raises(UserError, match=r"GB of generated data; at most 16\.0 GB unless GRIDLIGHT_MAX_GENERATED_GB"):
        HUGE[name]().setup()


@pytest.mark.parametrize("cls", [Adding, Copy, Function, MackeyGlass, Shapes])
def test_environment_variable_sets_the_limit(cls: type[DataModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDLIGHT_MAX_GENERATED_GB", "0.00001")
    with pytest.raises(UserError, match="at most 10 kB"):
        cls().setup()
    monkeypatch.setenv("GRIDLIGHT_MAX_GENERATED_GB", "much")
    with pytest.raises(UserError, match="GRIDLIGHT_MAX_GENERATED_GB=much: this is not a number"):
        cls().setup()


class Zeros(Windows):
    def values(self) -> torch.Tensor:
        return torch.zeros(1000, 1)


MADE: dict[str, Callable[[], Any]] = {
    "windows": lambda: Zeros().load(),
    "texts": lambda: pad([[5]], 100),
    "sounds": lambda: stack_waves([np.zeros(1, np.float32)], 100),
    "spectra": lambda: LogMel(8000, 256, 100, 8)(torch.zeros(1, 1000)),
    "images": lambda: read_images([], (3, 8, 8)).sum() or read_images(["a.png"], (3, 8, 8)),
}


@pytest.mark.parametrize("kind", MADE)
def test_data_larger_than_memory_are_rejected(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.core.resources.SMALL", 0)
    monkeypatch.setattr("src.core.resources.available_memory", lambda: 10)
    with pytest.raises(UserError, match="of data, and 10 bytes of memory are free"):
        MADE[kind]()


def test_precomputed_positions_are_limited() -> None:
    assert len(SinusoidalPositions(64, 2**30).table) == MAX_PRECOMPUTED // 64
    assert len(SinusoidalPositions(64, 100).table) == 100
