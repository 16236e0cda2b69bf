"""Reading and writing checkpoint files."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from src.core.checkpoint_file import CheckpointError, read_checkpoint_file, write_checkpoint_file
from src.core.checkpoint_schema import check_checkpoint, check_parts
from src.core.errors import UserError, first_line
from src.run_store.atomic_write import replaced

CHECKPOINTS_FOLDER = "checkpoints"
"""Name of the folder of a run that contains its checkpoints."""


def _run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint, which has it in checkpoints/; None for a checkpoint in any other folder."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS_FOLDER else None


def _root_of(checkpoint: Path) -> Path:
    """Return the folder below which no link is followed when a checkpoint is written."""
    return _run_folder_of(checkpoint) or checkpoint.parent


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is complete and on the disk.

    Reading admits tensors and plain containers only (`src.core.checkpoint_file`): a checkpoint from elsewhere runs no code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: naming the part, if an extension put something into it that is not data.
        """
        assert storage_options is None
        target = Path(path)
        root = _root_of(target)
        root.mkdir(parents=True, exist_ok=True)
        try:
            check_parts(checkpoint)
            with replaced(target, root) as file:
                write_checkpoint_file(checkpoint, file)
        except (CheckpointError, ValueError) as error:
            raise UserError(
                f"{target}: this checkpoint is not written, as it could not be read again. {first_line(error)}. A checkpoint "
                "holds tensors, NumPy's numbers and arrays, and plain values"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, as data only, whatever the other arguments say.

        A checkpoint in the folder of a run may not be a link; one that a person keeps elsewhere may.

        Raises:
            UserError: if there is none, if it is damaged or holds more than data, or if Gridlight did not write it.
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
    """Keeps the last checkpoint in memory, in place of writing it."""

    checkpoint: dict[str, Any]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        self.checkpoint = checkpoint


def checkpoint_in_memory(trainer: L.Trainer) -> dict[str, Any]:
    """Return what a checkpoint of a run would contain now; its tensors are those of the run, not copies."""
    strategy, memory = trainer.strategy, _MemoryCheckpointIO()
    checkpoint_io, strategy.checkpoint_io = strategy.checkpoint_io, memory
    try:
        trainer.save_checkpoint("memory", weights_only=False)
    finally:
        strategy.checkpoint_io = checkpoint_io
    return memory.checkpoint


LARGEST_NUMBER = 2**22
"""The largest number in the settings of a model, beside those of its weights."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Gridlight.

    Args:
        path: the file.

    Raises:
        UserError: if it is missing, torn, holds more than data, or was not written by Gridlight.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    if "gridlight" not in checkpoint:
        raise UserError(f"{path}: this checkpoint was not written by Gridlight")
    return checkpoint


@contextmanager
def no_larger_than(state: Mapping[str, Tensor], settings: Any, path: object) -> Iterator[None]:
    """Build a model from recorded settings, and stop as soon as it outgrows the recorded weights.

    Args:
        state: the weights, by their names.
        settings: the model's arguments.
        path: of the checkpoint, for the error.

    Raises:
        UserError: naming the checkpoint, if the model would be larger, or cannot be built.
    """
    most = 2 * sum(tensor.numel() for tensor in state.values()) + 2**20
    longest = max((size for tensor in state.values() for size in tensor.shape), default=0)
    parts = 100 * len(state) + 1000
    seen = {"numbers": 0, "parts": 0}

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        seen["numbers"] += 0 if tensor is None else tensor.numel()
        seen["parts"] += 1  # modules that are not registered yet take memory for their tensors, however small
        if seen["numbers"] > most or seen["parts"] > parts:
            raise ValueError(_TOO_LARGE)

    def count_module(_module: nn.Module, _name: str, _below: nn.Module | None) -> None:
        seen["parts"] += 1
        if seen["parts"] > parts:
            raise ValueError(_TOO_LARGE)

    with ExitStack() as stack:
        for register, hook in (
            (register_module_parameter_registration_hook, count),
            (register_module_buffer_registration_hook, count),
            (register_module_module_registration_hook, count_module),
        ):
            stack.callback(register(hook).remove)  # type: ignore[operator]
        try:
            if _largest_number(settings) > max(LARGEST_NUMBER, longest):
                raise ValueError(_TOO_LARGE)
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{path}: the model that this checkpoint describes cannot be built: {first_line(error)[:300]}"
            ) from error


_TOO_LARGE = "the settings describe a larger model than the weights are of"


def _largest_number(settings: Any) -> int:
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return max((len(settings), *map(_largest_number, settings)))
    return abs(settings) if isinstance(settings, int) else 0
