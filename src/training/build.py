"""Build the datamodule, the model and the trainer of a run from its config."""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

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
from src.core.batches import Batch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, first_line
from src.core.resources import available_memory, format_bytes
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import Fold
from src.models.base import Model
from src.regularization.batch_transform import batch_transform
from src.regularization.example_augmentation import example_augmentation
from src.training.checkpoint_check import CheckpointCheck
from src.training.checkpoint_io import AtomicCheckpointIO

if TYPE_CHECKING:
    from src.regularization.text_augmentation import LoadTranslator


class NoProfiler(PassThroughProfiler):
    """Profiler without any cost: Lightning calls its profiler about forty times per step, and the default one creates a
    generator each time.
    """

    _null_context = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._null_context


def _require_arguments(cls: type, key: str, arguments: Collection[str]) -> None:
    """Raise `UserError` if the constructor of a user's class does not take the arguments that a run passes."""
    parameters = inspect.signature(cls).parameters
    missing = [name for name in arguments if name not in parameters]
    if missing and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise UserError(
            f"{key}: its constructor does not take {', '.join(sorted(missing))}. Add **common to its arguments, and pass "
            "it to super().__init__"
        )


def build_data(config: Config, load_translator: "LoadTranslator | None" = None) -> DataModule:
    """Build the datamodule.

    Args:
        config: config of the run.
        load_translator: loads the translator of back-translation; None leaves out the augmentation of raw training examples.
    """
    cls = locate(config.datamodule.target or "", DataModule, "datamodule._target_")  # type: ignore[type-abstract]
    settings = config.cross_validation
    fold, augmentation = None, None
    if settings.folds is not None and settings.fold is not None:
        fold = Fold(settings.fold, settings.folds, settings.seed, settings.group)
    if load_translator is not None:
        augmentation = example_augmentation(config.regularization, cls.raw, load_translator)
    common: dict[str, Any] = {
        "data_dir": config.paths.data,
        "write_dir": writable_data_folder(config.paths.data),
        "fold": fold,
        "augmentation": augmentation,
    }
    _require_arguments(cls, f"datamodule._target_={config.datamodule.target}", common)
    return cls(**config.datamodule.arguments(), **common)


def construct_model(
    config: Config,
    spec: DataSpec,
    transform: Callable[[Batch], Any] | None,
    decode: Callable[[Tensor], list[str]] | None,
) -> Model:
    """Call the constructor of the configured model.

    Args:
        config: config of the run.
        spec: description of the data.
        transform, decode: `batch_transform` and `decode` of `Model`.

    Raises:
        UserError: if the constructor of a user's model does not take the arguments of `Model`.
    """
    cls = locate(config.model.target or "", Model, "model._target_")
    common: dict[str, Any] = {"training_config": config, "batch_transform": transform, "decode": decode}
    _require_arguments(cls, f"model._target_={config.model.target}", common)
    return cls(spec=spec, **common, **config.model.arguments())


def build_model(config: Config, spec: DataSpec, decode: Callable[[Tensor], list[str]] | None = None) -> Model:
    """Build the model for the data.

    Args:
        config: config of the run.
        spec: description of the data.
        decode: maps target tokens to texts (`DataModule.texts`), for BLEU.

    Raises:
        UserError: if the model does not support the data (where this is only known after loading them), or if its weights
            do not fit into the free memory.
    """
    if problems := list(model_and_data_problems(config, spec.task, spec.inputs)):
        raise UserError("\n".join(problems))
    with _limit_to_free_memory():
        return construct_model(config, spec, batch_transform(config, spec), decode)


@contextmanager
def _limit_to_free_memory() -> Iterator[None]:
    """Raise an error during the construction of a model as soon as its weights exceed the free memory."""
    num_bytes = 0

    def count(_module: nn.Module, _name: str, weights: Tensor | None) -> None:
        nonlocal num_bytes
        num_bytes += 0 if weights is None or weights.is_meta else weights.numel() * weights.element_size()
        if num_bytes > free:
            raise UserError(f"model: its weights take more than the {format_bytes(free)} of free memory")

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


def build_trainer(
    config: Config,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    default_root_dir: str | None = None,
) -> L.Trainer:
    """Return Lightning's trainer.

    Args:
        config: config of the run.
        callbacks: callbacks, in the order of their calls.
        loggers: loggers that receive the metrics.
        default_root_dir: folder for temporary files of Lightning; by default the working directory.

    Raises:
        UserError: if Lightning rejects a setting.
    """
    settings = config.trainer.model_dump(exclude={"name", "profiler", "loop"})
    clip_norm, clip_value = config.regularization.gradient_clip_norm, config.regularization.gradient_clip_value
    clip, clip_algorithm = None, None
    if clip_norm is not None:
        clip, clip_algorithm = clip_norm, "norm"
    elif clip_value is not None:
        clip, clip_algorithm = clip_value, "value"
    if not (config.trainer.deterministic or torch.are_deterministic_algorithms_enabled()):
        settings["deterministic"] = None  # False would make torch load its compiler
    try:
        trainer = L.Trainer(
            **settings,
            profiler=config.trainer.profiler or NoProfiler(),
            gradient_clip_val=clip,
            gradient_clip_algorithm=clip_algorithm,
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
