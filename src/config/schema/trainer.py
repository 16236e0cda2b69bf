"""Schema of the config group `trainer`."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from src.config.schema.base import Count, Section


def _check_time(time: str | None) -> str | None:
    if time is not None and not re.fullmatch(r"\d{1,6}:\d\d:\d\d:\d\d", time):
        raise ValueError("must be days:hours:minutes:seconds, such as 00:12:00:00 for half a day")
    return time


MAX_DEVICES = 64
"""Maximum number of devices of one machine."""


def _check_devices(devices: Any) -> Any:
    if devices == "auto":
        return devices
    is_list = isinstance(devices, list) and bool(devices)
    numbers = devices if is_list else [devices]  # indices from 0, or a count from 1
    if not all(type(number) is int and number >= (0 if is_list else 1) for number in numbers):
        raise ValueError("must be a number of devices from 1, a list of indices such as [0,2], or auto")
    if max(len(numbers), *numbers) > MAX_DEVICES:
        raise ValueError(f"at most {MAX_DEVICES} devices, because each one has a process")
    return devices


class TrainerOption(Section):
    """The arguments of Lightning's Trainer that a config can set."""

    name: str
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[Literal["auto"] | int | list[int], BeforeValidator(_check_devices)]
    num_nodes: Literal[1]
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    max_epochs: PositiveInt
    max_steps: Annotated[int, Field(ge=-1)]
    max_time: Annotated[str | None, AfterValidator(_check_time)]
    accumulate_grad_batches: PositiveInt
    check_val_every_n_epoch: PositiveInt
    limit_train_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    limit_val_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    limit_test_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    log_every_n_steps: Count
    deterministic: bool | Literal["warn"]
    detect_anomaly: bool
    profiler: Literal["simple", "advanced", "pytorch"] | None
    sync_batchnorm: bool
    loop: Literal["auto", "lightning"] = "auto"
