"""What the parts of a checkpoint must be, and restoring them: a damaged checkpoint is one error that names it."""

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
"""Versions of Lightning that Gridlight has run with. Older checkpoints would be rewritten by Lightning's own rules."""
_OF_TRAINING = ("state_dict", "callbacks", "optimizer_states", "lr_schedulers")
"""Parts that a checkpoint with the progress of training has too."""
_COUNTERS = {"ready", "completed", "started", "processed"}
_PROGRESS = {*_COUNTERS, "total", "current", "is_last_batch", "optimizer", "step", "zero_grad"}
"""Names in the progress of Lightning's loops, which takes over every name that it is given."""


class Damaged(ValueError):
    """A part of a checkpoint is not what it must be."""


def check_checkpoint(checkpoint: Any, path: object) -> None:
    """Raise an error unless the parts of a checkpoint have the types that Lightning and Gridlight rely on.

    Args:
        checkpoint: as it was read; it holds plain containers and tensors.
        path: of the file, for the error.

    Raises:
        UserError: naming the file and the part.
    """
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise UserError(f"{path}: this checkpoint was not written by Gridlight")
    with named(path):
        check_parts(checkpoint)


@contextmanager
def named(path: object) -> Iterator[None]:
    """Turn every error of a damaged checkpoint into one that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path}: this checkpoint is damaged: {reason[:300]}") from error


def check_parts(checkpoint: dict[str, Any]) -> None:
    """Raise `ValueError` for a part of a checkpoint of a wrong type."""
    version = checkpoint.get("pytorch-lightning_version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise Damaged("'pytorch-lightning_version' is not a version of Lightning 2")
    if not all(isinstance(name, str) for name in checkpoint):
        raise Damaged("the name of a part is not a string")
    if "loops" in checkpoint and (missing := [name for name in _OF_TRAINING if name not in checkpoint]):
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
    _check_own_part(checkpoint.get("gridlight", {}))


def _check_versions(layers: Any, name: str) -> None:
    """Check what torch keeps of each layer beside its tensors, by which it decides how to load them."""
    for of_layer in layers.values() if isinstance(layers, dict) else [layers]:
        if not isinstance(of_layer, dict) or not isinstance(of_layer.get("version"), int | None):
            raise Damaged(f"the version of a layer in '{name}' is not a number")
        if "assign_to_params_buffers" in of_layer:
            raise Damaged(f"'{name}' asks to take the place of the model's own tensors")


def is_count(value: object) -> bool:
    """Return whether a value is an integer from 0, as large as any count may be."""
    return type(value) is int and 0 <= value < 2**60


def _check_progress(value: Any, name: str) -> None:
    """Check the progress of Lightning's loops, in which every leaf is a count."""
    if isinstance(value, dict):
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


def _check_own_part(own: dict[str, Any]) -> None:
    if not own:
        return
    version = own.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION or type(version) is not int:
        shown = version if type(version) is int else "an unknown one"
        raise UserError(
            f"the format of this checkpoint is {shown}, and this Gridlight reads {FORMAT_VERSION}: update Gridlight"
        )
    for name in ("config", "spec", "preparation"):
        if not isinstance(own.get(name), dict):
            raise Damaged(f"'gridlight.{name}' is not a dictionary")


def check_like(own: Any, recorded: Any, name: str, exact: bool = True) -> None:
    """Raise an error unless a recorded state could have been made by the object that is to take it.

    Args:
        own: what the object's `state_dict` returns before it is restored.
        recorded: what a checkpoint holds for it.
        name: of the state, for the error.
        exact: refuse parts that the object has not. A schedule takes over every part as an attribute; a callback may have
            parts that are made as training goes on, such as the path of a checkpoint.
    """
    if isinstance(own, Mapping):
        if not isinstance(recorded, Mapping):
            raise Damaged(f"{name} is not a dictionary")
        for key, value in recorded.items():
            if key in own:
                check_like(own[key], value, f"{name}.{key}", exact)
            elif own and exact:
                raise Damaged(f"{name} has no part {str(key)[:60]!r}")
    elif isinstance(own, list | tuple):
        if not isinstance(recorded, list | tuple):
            raise Damaged(f"{name} is not a list")
        if own and all(is_scalar(value) for value in own) and not all(is_scalar(value) for value in recorded):
            raise Damaged(f"{name} holds something else than numbers")
        if own and all(isinstance(value, Mapping) for value in own):
            if len(own) != len(recorded):
                raise Damaged(f"{name} has {len(recorded)} parts, not {len(own)}")
            for mine, value in zip(own, recorded, strict=True):
                check_like(mine, value, name, exact)
    elif is_scalar(own):
        if not (is_scalar(recorded) or (recorded is None and isinstance(own, bool))):
            raise Damaged(f"{name} is not a number")
    elif isinstance(own, str):
        if not isinstance(recorded, str | None):
            raise Damaged(f"{name} is not a string")
    elif own is not None and recorded is not None and not isinstance(recorded, type(own)):
        raise Damaged(f"{name} is of a wrong type")


def is_scalar(value: object) -> bool:
    """Return whether a value is a number, or a tensor of one element."""
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def steps_in(checkpoint: Mapping[str, Any]) -> int:
    """Return how many steps the optimizers of a checkpoint have made; 0 if gradient scaling may have skipped them all."""
    return 0 if "MixedPrecision" in checkpoint else checkpoint.get("global_step", 0)


def check_optimizer(optimizer: Optimizer, recorded: Mapping[str, Any], steps: int) -> None:
    """Raise an error unless an optimizer could have made a recorded state.

    Args:
        optimizer: that is to take it.
        recorded: what its `state_dict` returned.
        steps: as `steps_in` returns them.
    """
    if not isinstance(recorded.get("state"), dict) or not isinstance(recorded.get("param_groups"), list):
        raise Damaged("the state of an optimizer is incomplete")
    mine, groups = optimizer.state_dict()["param_groups"], recorded["param_groups"]
    if len(mine) != len(groups):
        raise Damaged(f"the optimizer has {len(groups)} groups of parameters, not {len(mine)}")
    for group, other in zip(mine, groups, strict=True):
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
            raise Damaged("a group of parameters names an implementation of the optimizer that it cannot have")
    parameters = [
        (parameter, kept)
        for group in optimizer.param_groups
        for kept in [_kept_of_a_parameter(optimizer, group)]
        for parameter in group["params"]
    ]
    if steps and not recorded["state"] and any(kept for _, kept in parameters):
        raise Damaged(f"the state of an optimizer is empty, after {steps} steps")
    for number, state in recorded["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(state, dict):
            raise Damaged("the state of an optimizer is of no parameter")
        parameter, kept = parameters[number]
        if kept is None:
            continue
        if state.keys() != kept.keys():
            raise Damaged("the state of an optimizer is incomplete")
        if not all(_fits(value, kept[name], name, parameter) for name, value in state.items()):
            raise Damaged("the state of an optimizer does not fit its parameters")


_FLAGS = ("capturable", "differentiable")
"""Implementations of an optimizer that do not depend on the device."""

_OF_ALL = {"step", "mu_product", "mu", "eta"}
"""Names of numbers that an optimizer keeps for all elements of a parameter."""


def _kept_of_a_parameter(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an optimizer keeps of a parameter after a step, by trying one of one element.

    Returns:
        None for an optimizer of an extension, and one that cannot be tried so.
    """
    if type(optimizer).__module__.partition(".")[0] not in ("torch", "src", "pytorch_optimizer"):
        return None
    like = group["params"][0]
    tried = nn.Parameter(like.detach().new_zeros((1,) * like.dim()))
    tried.grad = torch.zeros_like(tried)
    try:
        other = type(optimizer)([{**group, "params": [tried]}], lr=group["lr"])  # type: ignore[call-arg]
        other.step()
    except Exception:
        return None
    return dict(other.state[tried])


def _fits(value: Any, own: Any, name: str, parameter: Tensor) -> bool:
    """Return whether a recorded value of an optimizer's state is as the optimizer makes it.

    Args:
        value: as it was recorded.
        own: what the optimizer makes for a parameter of one element.
        name: of the value.
        parameter: that the state belongs to.
    """
    if name in _OF_ALL:
        return is_scalar(value)
    if own is None:
        return value is None
    return isinstance(value, Tensor) and value.shape == parameter.shape


def check_callback(callback: Any, state: Mapping[str, Any]) -> None:
    """Raise an error unless a callback could have made a recorded state."""
    own = callback.state_dict()
    if missing := own.keys() - state.keys():
        raise Damaged(f"the state of {type(callback).__name__} lacks {sorted(missing)[0]!r}")
    check_like(own, state, f"the state of {type(callback).__name__}", exact=False)
