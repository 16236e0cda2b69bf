"""Build the parts of a run from its config: data, model, callbacks, loggers and trainer."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from src.compat.lean_imports import lean

with lean():
    import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler

from src.compat.checkpoint_connector import RestoringConnector
from src.compat.fast_loop import TrainingSteps
from src.config.combinations import model_and_data_problems
from src.config.locate import locate
from src.config.schema.run import Config
from src.config.trust import writable_data_folder
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import Fold
from src.models.base import Model
from src.regularization.batch_transform import batch_transform
from src.tasks.sequence_generation import Translation
from src.training.checkpoint_io import AtomicCheckpointIO


class NoProfiler(PassThroughProfiler):
    """Measures nothing at no cost: Lightning asks its profiler some forty times a step, and its own makes a generator
    each time.
    """

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._nothing


def build_data(config: Config) -> DataModule:
    """Make the datamodule and load what it needs."""
    datamodule = locate(config.datamodule.target or "", DataModule, "datamodule._target_")(  # type: ignore[type-abstract]
        **config.datamodule.arguments()
    )
    datamodule.data_dir, datamodule.write_dir = config.paths.data, writable_data_folder(config.paths.data)
    asked = config.cross_validation
    if asked.folds is not None and asked.fold is not None:
        datamodule.fold = Fold(asked.fold, asked.folds, asked.seed, asked.group)
    return datamodule


def build_model(config: Config, spec: Any) -> Model:
    """Make the model for the data.

    Raises:
        UserError: if the model cannot serve the data, where that could not be known before they were loaded.
    """
    if problems := list(model_and_data_problems(config, spec.task, spec.inputs)):
        raise UserError("\n".join(problems))
    model = locate(config.model.target or "", Model, "model._target_")(spec=spec, **config.model.arguments())
    model.training_config = config
    model.batch_transform = batch_transform(config, spec)
    return model


def _tell_texts(model: Model, datamodule: DataModule) -> None:
    """Let the task read the data's tokens as texts, for BLEU."""
    if isinstance(model.task, Translation):
        model.task.texts = datamodule.texts


def build_trainer(config: Config, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()) -> L.Trainer:
    """Make Lightning's trainer."""
    settings = config.trainer.model_dump(exclude={"name", "profiler", "loop"})
    clip_norm, clip_value = config.regularization.gradient_clip_norm, config.regularization.gradient_clip_value
    clip = clip_norm if clip_norm is not None else clip_value
    if not (config.trainer.deterministic or torch.are_deterministic_algorithms_enabled()):
        settings["deterministic"] = None  # to say no to torch would load its compiler
    try:
        trainer = L.Trainer(
            **settings,
            profiler=config.trainer.profiler or NoProfiler(),
            gradient_clip_val=clip,
            gradient_clip_algorithm=None if clip is None else "norm" if clip_norm is not None else "value",
            callbacks=list(callbacks),
            logger=list(loggers),
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (L.pytorch.utilities.exceptions.MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}") from error
    trainer._checkpoint_connector = RestoringConnector(trainer)
    trainer.fit_loop.epoch_loop = TrainingSteps(trainer, config.trainer.max_steps, Model, config.trainer.loop == "auto")
    return trainer
