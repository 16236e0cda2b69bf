"""Read and write checkpoint files."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from src.core.checkpoint_file import CheckpointError, read_checkpoint_file, write_checkpoint_file
from src.core.checkpoint_schema import check_checkpoint, check_parts, list_parameters_without_state
from src.core.errors import UserError, first_line
from src.run_store.atomic_write import atomic_write

log = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
"""Name of the checkpoint folder in a run folder."""


def _run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint in checkpoints/; None for a checkpoint in any other folder."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS_FOLDER else None


def checkpoint_root(checkpoint: Path) -> Path:
    """Return the folder below which links are not followed when writing a checkpoint."""
    return _run_folder_of(checkpoint) or checkpoint.parent


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically: to a temporary file, which replaces the target once it is complete and on disk.

    Only tensors and plain containers are read (`src.core.checkpoint_file`): an untrusted checkpoint cannot run code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: if an extension added something that is not data; the message names the part.
        """
        assert storage_options is None
        target = Path(path)
        root = checkpoint_root(target)
        root.mkdir(parents=True, exist_ok=True)
        try:
            check_parts(checkpoint)
            list_parameters_without_state(checkpoint)
            with atomic_write(target, root) as file:
                write_checkpoint_file(checkpoint, file)
        except (CheckpointError, ValueError) as error:
            raise UserError(
                f"{target}: this checkpoint is not written, because it could not be read again. {first_line(error)}. A "
                "checkpoint may contain tensors, NumPy scalars and arrays, and plain values"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU, as data only; the other arguments are ignored.

        A checkpoint in a run folder must not be a link; one in another folder may be.

        Raises:
            UserError: if the file is missing or damaged, contains more than data, or was not written by Gridlight.
        """
        try:
            checkpoint = read_checkpoint_file(Path(path), _run_folder_of(Path(path)))
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no such checkpoint") from error
        except OSError as error:
            raise UserError(f"{path}: this checkpoint cannot be read: {error.strerror}") from error
        check_checkpoint(checkpoint, path)
        return checkpoint  # type: ignore[no-any-return]


class _MemoryCheckpointIO(TorchCheckpointIO):
    """Store the last checkpoint in memory instead of writing it."""

    checkpoint: dict[str, Any]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        self.checkpoint = checkpoint


def checkpoint_in_memory(trainer: L.Trainer) -> dict[str, Any]:
    """Return the contents of a checkpoint of the current state; its tensors are those of the run, not copies."""
    strategy, memory_io = trainer.strategy, _MemoryCheckpointIO()
    checkpoint_io, strategy.checkpoint_io = strategy.checkpoint_io, memory_io
    try:
        trainer.save_checkpoint("memory", weights_only=False)
    finally:
        strategy.checkpoint_io = checkpoint_io
    return memory_io.checkpoint


Model = TypeVar("Model", bound=nn.Module)

MAX_SETTING = 2**22
"""Maximum integer in the arguments of a model, unless a dimension of its weights is larger."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Gridlight.

    Args:
        path: the file.

    Raises:
        UserError: if the file is missing or damaged, contains more than data, or was not written by Gridlight.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    if "gridlight" not in checkpoint:
        raise UserError(f"{path}: this checkpoint was not written by Gridlight")
    return checkpoint


class _TooLargeError(ValueError):
    def __init__(self) -> None:
        super().__init__("its arguments describe a larger model than the one that its weights are of")


def construct_within_size(
    construct: Callable[[], Model], state: Mapping[str, Tensor], settings: Any, path: object
) -> Model:
    """Return a model, unless it would be larger than the recorded weights.

    It is constructed on the meta device first: there, weights take no memory and no time until they are counted.

    Args:
        construct: calls the constructor of the model.
        state: recorded weights by name.
        settings: recorded arguments of the model.
        path: path of the checkpoint, for the error message.

    Raises:
        UserError: if the model would be larger than its weights, or cannot be built.
    """
    with _limit_size(state, settings, path):
        try:
            with torch.device("meta"):
                construct()
        except (_TooLargeError, UserError):
            raise
        except Exception as error:  # the class of a user may need the values of its weights
            log.debug("%s: no test on the meta device: %s", path, error)
    with _limit_size(state, settings, path):
        return construct()


@contextmanager
def _limit_size(state: Mapping[str, Tensor], settings: Any, path: object) -> Iterator[None]:
    """Raise an error during the construction of a model as soon as it is larger than the recorded weights.

    Args:
        state: recorded weights by name.
        settings: recorded arguments of the model.
        path: path of the checkpoint, for the error message.

    Raises:
        UserError: if the model would be larger than its weights, or cannot be built.
    """
    max_elements = 2 * sum(tensor.numel() for tensor in state.values()) + 2**20
    largest_size = max((size for tensor in state.values() for size in tensor.shape), default=0)
    max_objects = 100 * len(state) + 1000
    num_elements = num_objects = 0

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal num_elements, num_objects
        num_elements += 0 if tensor is None else tensor.numel()
        num_objects += 1  # even small tensors of modules that are not registered yet take memory
        if num_elements > max_elements or num_objects > max_objects:
            raise _TooLargeError

    def count_module(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal num_objects
        num_objects += 1
        if num_objects > max_objects:
            raise _TooLargeError

    with ExitStack() as stack:
        for register, hook in (
            (register_module_parameter_registration_hook, count),
            (register_module_buffer_registration_hook, count),
            (register_module_module_registration_hook, count_module),
        ):
            stack.callback(register(hook).remove)  # type: ignore[operator]
        try:
            if _largest_integer(settings) > max(MAX_SETTING, largest_size):
                raise _TooLargeError
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{path}: the model that this checkpoint describes cannot be built: {first_line(error)[:300]}"
            ) from error


def _largest_integer(settings: Any) -> int:
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return max((len(settings), *map(_largest_integer, settings)))
    return abs(settings) if isinstance(settings, int) else 0
