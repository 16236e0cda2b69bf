"""Schemas of the config groups `search` and `sweep`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from src.config.schema.base import Count, Section, Seed


def _check_folder_name(name: str | None) -> str | None:
    if name is not None and (not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\=")):
        raise ValueError("must be the name of one folder under sweeps/: no slash, no '=', no dot in front")
    return name


class Sweep(Section):
    name: Annotated[str | None, AfterValidator(_check_folder_name)]
    resume: str | None = None
    retry_failed: bool = True
    dry_run: bool = False


class Search(Section):
    """How the points of a sweep are chosen, and which of its jobs are pruned. Not part of the configs of the jobs."""

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
