"""Schemas of the config group `logger`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from src.config.schema.base import Entry, Section


class CSVLogger(Entry):
    save_dir: str | None = None
    name: str | None = "lightning_logs"
    version: int | str | None = None
    prefix: str = ""
    flush_logs_every_n_steps: PositiveInt = 100


class WeightsAndBiases(Section):
    """The entry ``logger.wandb``, which has no class."""

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    log_model: bool | Literal["all"] = False
    init_timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0
    finish_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
