"""Build everything that one training run needs, from its config."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.compat.lean_imports import lean

with lean():
    import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from src.config.schema.run import Config
from src.datamodules.base import DataModule
from src.models.base import Model
from src.regularization.example_augmentation import example_augmentation
from src.run_store.run_folder import RunFolder
from src.training.build import _tell_texts, build_data, build_model, build_trainer
from src.training.callbacks import build_callbacks
from src.training.inference import Translator


@dataclass(frozen=True)
class Experiment:
    """Everything of one run, ready to train."""

    config: Config
    datamodule: DataModule
    model: Model
    trainer: L.Trainer


def prepared_data(config: Config) -> DataModule:
    """Make the datamodule of a training run, and load its data."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build_data(config)
    datamodule.augmentation = example_augmentation(config.regularization, datamodule.raw, Translator)
    datamodule.prepare_data()
    datamodule.setup()
    datamodule.say_where()
    return datamodule


def seeded_model(config: Config, datamodule: DataModule) -> Model:
    """Make the model of a training run; the same weights, however the data were made."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, datamodule.spec)
    _tell_texts(model, datamodule)
    return model


def build(
    config: Config,
    folder: RunFolder | None = None,
    loggers: Sequence[Logger] = (),
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Experiment:
    """Make the datamodule, the model and the trainer of a run.

    Args:
        config: a checked config.
        folder: where checkpoints go; None keeps none.
        loggers: of the run.
        verbose: show the progress.
        callbacks: beside those of the config.
    """
    datamodule = prepared_data(config)
    model = seeded_model(config, datamodule)
    own = build_callbacks(config, folder, datamodule.task, verbose) if folder else []
    trainer = build_trainer(config, [*own, *callbacks], loggers)
    if trainer.global_rank > 0:  # dropout, mixing and augmentation differ from device to device
        L.seed_everything((config.seed + 1_000_003 * trainer.global_rank) % 2**32, workers=True, verbose=False)
    return Experiment(config, datamodule, model, trainer)
