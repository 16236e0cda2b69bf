"""Build everything that a training run needs from its config."""

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
from src.run_store.run_folder import RunFolder
from src.training.build import build_data, build_model, build_trainer
from src.training.callbacks import build_callbacks
from src.training.inference import Translator


@dataclass(frozen=True)
class Experiment:
    """Datamodule, model and trainer of a run, ready to train."""

    config: Config
    datamodule: DataModule
    model: Model
    trainer: L.Trainer


def prepare_datamodule(config: Config) -> DataModule:
    """Build the datamodule of a training run, and load its data."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build_data(config, Translator)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def build_seeded_model(config: Config, datamodule: DataModule) -> Model:
    """Build the model of a training run; its initial weights depend on the seed only, not on how the data were prepared."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    return build_model(config, datamodule.spec, datamodule.texts)


def build(
    config: Config,
    folder: RunFolder | None = None,
    loggers: Sequence[Logger] = (),
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Experiment:
    """Build the datamodule, the model and the trainer of a run.

    Args:
        config: a validated config.
        folder: the run folder; without one, the callbacks of the config, such as checkpoints, are left out.
        loggers: loggers of the run.
        verbose: show the progress.
        callbacks: additional callbacks.
    """
    datamodule = prepare_datamodule(config)
    datamodule.log_storage()
    model = build_seeded_model(config, datamodule)
    configured = build_callbacks(config, folder, datamodule.task, verbose) if folder else []
    trainer = build_trainer(config, [*configured, *callbacks], loggers)
    if trainer.global_rank > 0:  # dropout, mixing and augmentation differ from device to device
        L.seed_everything((config.seed + 1_000_003 * trainer.global_rank) % 2**32, workers=True, verbose=False)
    return Experiment(config, datamodule, model, trainer)
