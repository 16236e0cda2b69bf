"""Build the parts of a run from its config: data, model, callbacks, loggers and trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from src.compat.lean_imports import lean

with lean():
    import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from src.compat.fast_loop import install_training_loop
from src.config.combinations import model_and_data_problems
from src.config.locate import locate
from src.config.schema.run import Config
from src.config.trust import writable_data_folder
from src.core.errors import UserError, first_line
from src.core.resources import available_memory, shown_bytes
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import Fold
from src.models.base import Model
from src.regularization.batch_transform import batch_transform
from src.tasks.sequence_generation import Translation
from src.training.checkpoint_check import CheckpointCheck
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
        UserError: if the model cannot serve the data, where that could not be known before they were loaded, or if its
            weights take more memory than is free.
    """
    if problems := list(model_and_data_problems(config, spec.task, spec.inputs)):
        raise UserError("\n".join(problems))
    with _within_memory():
        model = locate(config.model.target or "", Model, "model._target_")(spec=spec, **config.model.arguments())
    model.training_config = config
    model.batch_transform = batch_transform(config, spec)
    return model


@contextmanager
def _within_memory() -> Iterator[None]:
    """Stop building a model as soon as its weights take more memory than is free, and before they are filled."""
    needed = 0

    def count(_module: nn.Module, _name: str, weights: Tensor | None) -> None:
        nonlocal needed
        needed += 0 if weights is None or weights.is_meta else weights.numel() * weights.element_size()
        if needed > free:
            raise UserError(f"model: its weights take more than the {shown_bytes(free)} of memory that are free")

    free = available_memory()
    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "alloc" in str(error) or isinstance(error, MemoryError):
            raise UserError(f"model: its weights do not fit into memory: {first_line(error)[:200]}") from error
        raise
    finally:
        hook.remove()


def _tell_texts(model: Model, datamodule: DataModule) -> None:
    """Let the task read the data's tokens as texts, for BLEU."""
    if isinstance(model.task, Translation):
        model.task.texts = datamodule.texts


def build_trainer(
    config: Config,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    default_root_dir: str | None = None,
) -> L.Trainer:
    """Return Lightning's trainer.

    Args:
        config: of the run.
        callbacks: in the order in which they are called.
        loggers: receive the metrics.
        default_root_dir: folder for temporary files of Lightning; by default the working directory.

    Raises:
        UserError: if Lightning refuses a setting.
    """
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
            callbacks=[*callbacks, CheckpointCheck()],
            logger=list(loggers),
            default_root_dir=default_root_dir,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (L.pytorch.utilities.exceptions.MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}") from error
    install_training_loop(trainer, config.trainer.max_steps, Model, config.trainer.loop == "auto")
    return trainer
