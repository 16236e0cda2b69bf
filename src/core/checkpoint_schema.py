"""Validate the parts of a checkpoint. A damaged checkpoint is reported in one error that names the file."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from src.core.errors import UserError, first_line
from src.core.records import FORMAT_VERSION

_VERSION = re.compile(r"2(?:\.\d{1,4}){0,2}(?:\.?(?:dev|post|rc|a|b)\d{0,8})?(?:\+[a-z0-9.]{1,40})?")
"""Supported versions of Lightning. Lightning would migrate older checkpoints by its own rules."""
_TRAINING_PARTS = ("state_dict", "callbacks", "optimizer_states", "lr_schedulers")
"""Parts that a checkpoint with the progress of training must have."""
_COUNTERS = ("ready", "started", "processed", "completed")
"""Counters of Lightning's loops, in the order in which they are increased."""
_PROGRESS = {*_COUNTERS, "total", "current", "is_last_batch", "optimizer", "step", "zero_grad"}
"""Names in the progress of Lightning's loops, which sets every name in a checkpoint as an attribute."""


class Damaged(ValueError):
    """A part of a checkpoint is invalid."""


def check_checkpoint(checkpoint: Any, path: object) -> None:
    """Raise an error unless the parts of a checkpoint have the types that Lightning and Gridlight rely on.

    Args:
        checkpoint: the checkpoint, of plain containers and tensors.
        path: path of the file, for the error.

    Raises:
        UserError: if a part is invalid; the message names the file and the part.
    """
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise UserError(f"{path}: this checkpoint was not written by Gridlight")
    with name_errors(path):
        check_parts(checkpoint)


@contextmanager
def name_errors(path: object) -> Iterator[None]:
    """Turn errors of a damaged checkpoint into a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path}: this checkpoint is damaged: {reason[:300]}") from error


def check_parts(checkpoint: dict[str, Any]) -> None:
    """Raise `ValueError` if a part of a checkpoint has a wrong type."""
    version = checkpoint.get("pytorch-lightning_version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise Damaged("'pytorch-lightning_version' is not a version of Lightning 2")
    if not all(isinstance(name, str) for name in checkpoint):
        raise Damaged("the name of a part is not a string")
    if "loops" in checkpoint and (missing := [name for name in _TRAINING_PARTS if name not in checkpoint]):
        raise Damaged(f"'{missing[0]}' is missing")
    for name in ("epoch", "global_step"):
        if not is_count(checkpoint.get(name, 0)):
            raise Damaged(f"'{name}' is not an integer of 0 or more")
    for name in ("state_dict", "current_model_state"):
        state = checkpoint.get(name, {})
        if not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            raise Damaged(f"'{name}' does not hold tensors by their names")
        _check_versions(getattr(state, "_metadata", {}), name)
    for name in ("loops", "callbacks", "gridlight", "hyper_parameters", "averaging_state", "MixedPrecision"):
        if name in checkpoint and not isinstance(checkpoint[name], dict):
            raise Damaged(f"'{name}' is not a dictionary")
    for name in ("optimizer_states", "lr_schedulers", "random_states"):
        states = checkpoint.get(name, [])
        if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
            raise Damaged(f"'{name}' is not a list of dictionaries")
    for key, state in checkpoint.get("callbacks", {}).items():
        if not isinstance(key, str) or not isinstance(state, dict):
            raise Damaged("the state of a callback is not a dictionary")
    _check_progress(checkpoint.get("loops", {}), "loops")
    if "gridlight" in checkpoint:
        _check_gridlight_part(checkpoint["gridlight"])


def _check_versions(layers: Any, name: str) -> None:
    """Check the metadata of layers in a state_dict, which decide how torch loads their tensors."""
    for metadata in layers.values() if isinstance(layers, dict) else [layers]:
        if not isinstance(metadata, dict) or not isinstance(metadata.get("version"), int | None):
            raise Damaged(f"the version of a layer in '{name}' is not a number")
        if "assign_to_params_buffers" in metadata:
            raise Damaged(f"'{name}' requests to replace the model's own tensors")


def is_count(value: object) -> bool:
    """Return whether a value is an integer from 0 to 2**60."""
    return type(value) is int and 0 <= value < 2**60


def _check_progress(value: Any, name: str) -> None:
    """Check the progress of Lightning's loops, in which every leaf is a count."""
    if isinstance(value, dict):
        counts = [value[key] for key in _COUNTERS if key in value]
        if all(map(is_count, counts)) and counts != sorted(counts, reverse=True):
            raise Damaged("the progress of training contradicts itself")
        if name.endswith(("epoch_progress.progress", "batch_progress.progress")) and len(counts) < len(_COUNTERS):
            raise Damaged("the progress of training is incomplete")
        for key, inner in value.items():
            if key == "_batches_that_stepped" and not is_count(inner):
                raise Damaged("the progress of training is not a count")
            if not isinstance(key, str) or (name.endswith("progress") and key not in _PROGRESS):
                raise Damaged(f"{name} has no part {str(key)[:60]!r}")
            if key in _COUNTERS and not is_count(inner):
                raise Damaged("the progress of training is not a count")
            _check_progress(inner, f"{name}.progress" if name.endswith("progress") else key)
    elif isinstance(value, list) and not name.endswith("progress"):
        for inner in value:
            _check_progress(inner, name)
    elif name.endswith("progress") and type(value) is not bool and not is_count(value):
        raise Damaged("the progress of training is not a count")


def _check_gridlight_part(part: dict[str, Any]) -> None:
    version = part.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION or type(version) is not int:
        text = version if type(version) is int else "an unknown one"
        raise UserError(
            f"the format of this checkpoint is {text}, and this version of Gridlight reads {FORMAT_VERSION}"
        )
    for name in ("config", "spec", "preparation"):
        if not isinstance(part.get(name), dict):
            raise Damaged(f"'gridlight.{name}' is not a dictionary")


def check_like(expected: Any, recorded: Any, name: str, exact: bool = True) -> None:
    """Raise an error unless a recorded state has the structure of the state of the object that will load it.

    Args:
        expected: the `state_dict` of the object before it is restored.
        recorded: the state in a checkpoint.
        name: name of the state, for the error.
        exact: refuse parts that the object does not have. A schedule sets every part as an attribute; a callback may have
            parts that are created during training, such as the path of a checkpoint.
    """
    if isinstance(expected, Mapping):
        if not isinstance(recorded, Mapping):
            raise Damaged(f"{name} is not a dictionary")
        for key, value in recorded.items():
            if key in expected:
                check_like(expected[key], value, f"{name}.{key}", exact)
            elif expected and exact:
                raise Damaged(f"{name} has no part {str(key)[:60]!r}")
    elif isinstance(expected, list | tuple):
        if not isinstance(recorded, list | tuple):
            raise Damaged(f"{name} is not a list")
        if expected and all(is_scalar(value) for value in expected) and not all(is_scalar(value) for value in recorded):
            raise Damaged(f"{name} contains values that are not numbers")
        if expected and all(isinstance(value, Mapping) for value in expected):
            if len(expected) != len(recorded):
                raise Damaged(f"{name} has {len(recorded)} parts, not {len(expected)}")
            for expected_value, value in zip(expected, recorded, strict=True):
                check_like(expected_value, value, name, exact)
    elif is_scalar(expected):
        if not (is_scalar(recorded) or (recorded is None and isinstance(expected, bool))):
            raise Damaged(f"{name} is not a number")
    elif isinstance(expected, str):
        if not isinstance(recorded, str | None):
            raise Damaged(f"{name} is not a string")
    elif expected is not None and recorded is not None and not isinstance(recorded, type(expected)):
        raise Damaged(f"{name} is of a wrong type")


def is_scalar(value: object) -> bool:
    """Return whether a value is a real number, or a tensor of one without dimensions."""
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex())


def steps_in(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of optimizer steps of a checkpoint; 0 if gradient scaling may have skipped them all."""
    return 0 if "MixedPrecision" in checkpoint else checkpoint.get("global_step", 0)


def check_optimizer(optimizer: Optimizer, recorded: Mapping[str, Any], steps: int) -> None:
    """Raise an error unless a recorded state fits an optimizer.

    Args:
        optimizer: that will load the state.
        recorded: the recorded `state_dict` of an optimizer.
        steps: as `steps_in` returns them.
    """
    if not isinstance(recorded.get("state"), dict) or not isinstance(recorded.get("param_groups"), list):
        raise Damaged("the state of an optimizer is incomplete")
    own_groups, groups = optimizer.state_dict()["param_groups"], recorded["param_groups"]
    if len(own_groups) != len(groups):
        raise Damaged(f"the optimizer has {len(groups)} groups of parameters, not {len(own_groups)}")
    for group, other in zip(own_groups, groups, strict=True):
        if not isinstance(other, dict) or not group.keys() - {"initial_lr"} <= other.keys():
            raise Damaged("a group of parameters of an optimizer is incomplete")
        if other.get("params") != group["params"]:
            raise Damaged("a group of parameters of an optimizer holds other parameters")
        check_like(group, {key: value for key, value in other.items() if key in group}, "a group of parameters")
        for key, value in group.items():
            if isinstance(value, list | tuple) and key in other and len(other[key]) != len(value):
                raise Damaged(f"a group of parameters has {len(other[key])} values of '{key}', not {len(value)}")
        if any(bool(other.get(flag)) != bool(group.get(flag)) for flag in _FLAGS) or (
            other.get("fused") and other.get("foreach")
        ):
            raise Damaged("a group of parameters selects an implementation that the optimizer does not have")
    parameters: list[tuple[Tensor, dict[str, Any] | None]] = []
    for group, other in zip(optimizer.param_groups, groups, strict=True):
        expected = _state_per_parameter(optimizer, group)
        switched = {
            key: other[key] for key, value in group.items() if key != "lr" and _is_switched(value, other.get(key))
        }
        if expected is not None and switched:  # such as amsgrad, which needs a further state
            expected = _state_per_parameter(optimizer, {**group, **switched})
            if expected is None:
                raise Damaged("a group of parameters has settings that the optimizer does not support")
        parameters += [(parameter, expected) for parameter in group["params"]]
    stateful = {number for number, (_, expected) in enumerate(parameters) if expected}
    if steps and (missing := stateful - recorded["state"].keys() - set(recorded.get(WITHOUT_STATE, ()))):
        raise Damaged(f"the state of an optimizer is missing for {len(missing)} of {len(parameters)} parameters")
    for number, state in recorded["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(state, dict):
            raise Damaged("the state of an optimizer belongs to no parameter")
        parameter, expected = parameters[number]
        if expected is None:
            continue
        if state.keys() != expected.keys():
            raise Damaged("the state of an optimizer is incomplete")
        if not all(_is_valid_state(value, expected[name], name, parameter) for name, value in state.items()):
            raise Damaged("the state of an optimizer does not fit its parameters")


WITHOUT_STATE = "without_state"
"""Entry of a recorded optimizer: the parameters that have received no gradient yet, so that they have no state."""


def list_parameters_without_state(checkpoint: Mapping[str, Any]) -> None:
    """Add the entry `WITHOUT_STATE` to the optimizers of a new checkpoint, for `check_optimizer`."""
    for optimizer in checkpoint.get("optimizer_states", []):
        numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
        optimizer[WITHOUT_STATE] = [number for number in numbers if number not in optimizer["state"]]


_FLAGS = ("capturable", "differentiable")
"""Implementation flags of an optimizer that do not depend on the device."""

_SCALAR_STATE = {"step", "mu_product", "mu", "eta"}
"""Names of scalars in the state of a parameter."""


def _is_switched(own: Any, recorded: Any) -> bool:
    """Return whether a recorded setting is on and that of the optimizer off, or the reverse."""
    return all(isinstance(value, bool | int | float) for value in (own, recorded)) and bool(own) != bool(recorded)


def _state_per_parameter(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of an optimizer for a parameter after one step, from a trial with a parameter of one element.

    Returns:
        The state; None for an optimizer of an extension, and for one that does not support the trial.
    """
    if type(optimizer).__module__.partition(".")[0] not in ("torch", "src", "pytorch_optimizer"):
        return None
    first = group["params"][0]
    parameter = nn.Parameter(first.detach().new_zeros((1,) * first.dim()))
    parameter.grad = torch.zeros_like(parameter)
    try:
        trial = type(optimizer)([{**group, "params": [parameter]}], lr=group["lr"])  # type: ignore[call-arg]
        trial.step()
    except Exception:
        return None
    return dict(trial.state[parameter])


def _is_valid_state(value: Any, expected: Any, name: str, parameter: Tensor) -> bool:
    """Return whether a recorded value of an optimizer's state has the expected type and shape.

    Args:
        value: the recorded value.
        expected: the value for a parameter of one element.
        name: name of the value.
        parameter: that the state belongs to.
    """
    if name in _SCALAR_STATE or (isinstance(expected, Tensor) and expected.dim() == 0):
        return is_scalar(value)
    if expected is None:
        return value is None
    return isinstance(value, Tensor) and value.shape == parameter.shape


def check_callback(callback: Any, state: Mapping[str, Any]) -> None:
    """Raise an error unless a recorded state fits a callback."""
    expected = callback.state_dict()
    if missing := expected.keys() - state.keys():
        raise Damaged(f"the state of {type(callback).__name__} lacks {sorted(missing)[0]!r}")
    check_like(expected, state, f"the state of {type(callback).__name__}", exact=False)
