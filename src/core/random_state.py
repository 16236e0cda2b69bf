"""Save and restore the state of all random number generators."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch (CPU, and the CUDA device) as plain values."""
    version, integers, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    return {
        "python": [version, torch.tensor(integers), gauss],  # one object in the file instead of 625
        "numpy": {
            **numpy,
            "state": {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)), "pos": numpy["state"]["pos"]},
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore a state that `random_state` returned.

    Raises:
        ValueError: if the state is invalid; some generators may have been set.
    """
    try:
        version, integers, gauss = state["python"]
        numpy, cpu, cuda = state["numpy"], state["torch"], state["cuda"]
        key = numpy["state"]["key"]
        python = (version, tuple(map(int, integers.tolist())), gauss)
        _check_generators(python, numpy, key, cpu, cuda)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"its state of random generators is invalid ({error})") from error
    random.setstate(python)
    position = {**numpy["state"], "key": key.numpy().astype(np.uint32)}
    np.random.set_state({**numpy, "state": position})
    torch.set_rng_state(cpu)
    if device.type == "cuda" and cuda is not None:
        torch.cuda.set_rng_state(cuda.cpu(), device)


def _check_generators(python: tuple[Any, ...], numpy: dict[str, Any], key: Tensor, cpu: Tensor, cuda: object) -> None:
    """Check values that the generators themselves do not check, or only after they have changed."""
    version, integers, gauss = python
    position = numpy["state"]["pos"]
    is_valid = {
        "Python's": version == 3
        and len(integers) == 625
        and all(0 <= integer < 2**32 for integer in integers)
        and integers[-1] <= 624
        and (gauss is None or type(gauss) is float),
        "NumPy's": set(numpy) == {"bit_generator", "state", "has_gauss", "gauss"}
        and numpy["bit_generator"] == "MT19937"
        and set(numpy["state"]) == {"key", "pos"}
        and (key.dtype, key.shape) == (torch.int64, (624,))
        and (type(position) is int and 0 <= position <= 624)
        and type(numpy["has_gauss"]) is int
        and type(numpy["gauss"]) is float,
        "torch's": isinstance(cpu, Tensor) and (cpu.dtype, cpu.shape) == (torch.uint8, torch.get_rng_state().shape),
        "that of the GPU": cuda is None
        or (isinstance(cuda, Tensor) and (cuda.dtype, cuda.shape) == (torch.uint8, (16,))),
    }
    for name, valid in is_valid.items():
        if not valid:
            raise ValueError(f"{name} is damaged")
