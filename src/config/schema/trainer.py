"""Schema of the config group `trainer`."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from src.config.schema.base import Count, Section


def _lasts(time: str | None) -> str | None:
    if time is not None and not re.fullmatch(r"\d{1,6}:\d\d:\d\d:\d\d", time):
        raise ValueError("days:hours:minutes:seconds, such as 00:12:00:00 for half a day")
    return time


MOST_DEVICES = 64
"""Devices of one machine."""


def _names_devices(devices: Any) -> Any:
    numbers = devices if isinstance(devices, list) and devices else [devices]
    least = 0 if numbers is devices else 1
    if devices != "auto" and not all(type(number) is int and number >= least for number in numbers):
        raise ValueError("how many devices, from 1; or which, such as [0,2]; or auto")
    if devices != "auto" and max(len(numbers), *numbers) > MOST_DEVICES:
        raise ValueError(f"at most {MOST_DEVICES} devices, each of which has a process")
    return devices


class TrainerOption(Section):
    """The part of Lightning's Trainer that a run may set."""

    name: str
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[Literal["auto"] | int | list[int], BeforeValidator(_names_devices)]
    num_nodes: Literal[1]
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    max_epochs: PositiveInt
    max_steps: Annotated[int, Field(ge=-1)]
    max_time: Annotated[str | None, AfterValidator(_lasts)]
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
