"""Schema of a whole config."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt

from src.config.schema.base import Option, Section, Seed
from src.config.schema.datamodule import DataOption
from src.config.schema.model import ModelOption
from src.config.schema.regularization import Regularization
from src.config.schema.scheduler import SchedulerOption
from src.config.schema.search import Sweep
from src.config.schema.trainer import TrainerOption


def _not_empty(path: Any) -> Any:
    if not str(path).strip():
        raise ValueError("a path must be given; use . for the working directory")
    return path


Folder = Annotated[Path, Field(strict=False), BeforeValidator(_not_empty)]


class Paths(Section):
    data: Folder
    outputs: Folder


class CrossValidation(Section):
    """Number of folds of the training and validation data, and the fold that is validated on."""

    folds: Annotated[int, Field(ge=2)] | None = None
    fold: PositiveInt | None = None
    group: str | None = None
    seed: Seed = 0


class Config(Section):
    """A whole validated config."""

    seed: Seed
    monitor: str | None
    resume: str | None
    tags: list[str]
    notes: str | None
    paths: Paths
    sweep: Sweep
    cross_validation: CrossValidation = CrossValidation()
    model: ModelOption
    datamodule: DataOption
    optimizer: Option
    scheduler: SchedulerOption
    regularization: Regularization
    trainer: TrainerOption
    logger: dict[str, dict[str, Any] | None]
    callbacks: dict[str, dict[str, Any] | None]

    def plain(self) -> dict[str, Any]:
        """Return the config as plain containers, as recorded in config.yaml and in a checkpoint."""
        return self.model_dump(mode="json", by_alias=True, serialize_as_any=True)
