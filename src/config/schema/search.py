"""Schemas of the config groups `search` and `sweep`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from src.config.schema.base import Count, Section, Seed


def _one_folder(name: str | None) -> str | None:
    if name is not None and (not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\=")):
        raise ValueError("it names one folder under sweeps/: letters and digits, no slash, '=' or dot in front")
    return name


class Sweep(Section):
    name: Annotated[str | None, AfterValidator(_one_folder)]
    resume: str | None = None
    retry_failed: bool = True
    dry_run: bool = False


class Search(Section):
    """Where the points of a sweep come from, and which of its jobs are ended early. It belongs to a sweep and not to
    the configs of its jobs.
    """

    name: Literal["grid", "random", "optuna"]
    ranges: dict[str, str]
    pruner: Literal["none", "median", "successive_halving", "hyperband"]
    warmup_epochs: PositiveInt
    startup_jobs: Count
    reduction_factor: Annotated[int, Field(ge=2)]


class RandomSearch(Search):
    trials: Annotated[int, Field(gt=0, le=100_000)]
    seed: Seed


class OptunaSearch(RandomSearch):
    sampler: Literal["tpe", "gp", "qmc", "nsgaii"]
    objectives: Annotated[list[str], Field(min_length=1)] | None


SEARCHES: dict[str, type[Search]] = {"grid": Search, "random": RandomSearch, "optuna": OptunaSearch}
