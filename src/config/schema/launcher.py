"""Schemas of the cluster launchers in conf/hydra/launcher/."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from src.config.schema.base import Count, Section


class SlurmSettings(Section):
    jobs: PositiveInt
    array_parallelism: PositiveInt | None
    partition: str | None
    account: str | None
    qos: str | None
    timeout_min: PositiveInt | None
    cpus_per_task: PositiveInt
    gpus_per_node: Count
    mem_gb: PositiveFloat | None
    signal_delay_s: PositiveInt
    max_requeues: Count
    poll_seconds: PositiveFloat
    setup: list[str]
    additional_parameters: dict[str, str | int | float | bool]


class RaySettings(Section):
    address: str | None
    jobs: PositiveInt | None
    cpus_per_job: PositiveInt
    gpus_per_job: Annotated[float, Field(ge=0)]
