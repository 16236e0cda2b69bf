"""What the tests of sweeps share: Hydra's loader and the config of a whole sweep, as a launcher gets them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from src.config.isolated_hydra import isolated_hydra
from src.sweeping.job_composer import JobComposer


@pytest.fixture
def composer() -> Iterator[Callable[..., JobComposer]]:
    """Return a function that makes the composer of a sweep with some overrides that all its jobs share."""
    with isolated_hydra():
        loader = GlobalHydra.instance().config_loader()

        def make(*overrides: str) -> JobComposer:
            return JobComposer(loader, loader.load_configuration("train", list(overrides), RunMode.MULTIRUN), "test")

        yield make


def product(varied: dict[str, list[Any]]) -> list[list[str]]:
    """Return the overrides of every combination."""
    axes = [[f"{key}={value}" for value in values] for key, values in varied.items()]
    return [list(point) for point in itertools.product(*axes)]


def sweep_folder(tmp_path: Path, name: str) -> Path:
    return tmp_path / "outputs" / "sweeps" / name
