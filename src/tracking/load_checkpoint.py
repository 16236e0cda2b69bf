"""Reading a checkpoint as data: nothing in it is executed."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from src.errors import UserError
from src.tracking.checkpoints import AtomicCheckpointIO

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
    modules = 100 * len(state) + 1000
    seen = {"numbers": 0, "modules": 0}

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        seen["numbers"] += 0 if tensor is None else tensor.numel()
        if seen["numbers"] > most:
            raise ValueError(_TOO_LARGE)

    def count_module(_module: nn.Module, _name: str, _below: nn.Module | None) -> None:
        seen["modules"] += 1
        if seen["modules"] > modules:
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
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"{path}: the model that this checkpoint describes cannot be built: {first[:300]}"
            ) from error


_TOO_LARGE = "the settings describe a larger model than the weights are of"


def _largest_number(settings: Any) -> int:
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return max((len(settings), *map(_largest_number, settings)))
    return abs(settings) if isinstance(settings, int) else 0
