"""Estimate the parameters and memory of the jobs of a sweep, on torch's meta device, which allocates nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.config.schema.run import Config
from src.config.validate import check
from src.core.console import echo
from src.core.resources import format_bytes
from src.core.tables import new_table, show
from src.diagnostics.saved_activations import _bytes, meta_saved_bytes
from src.optim.factory import build_optimizer
from src.sweeping.ledger import ACTIONS, Job, Ledger, State
from src.sweeping.search.space import Space
from src.training.build import build_data, build_model

SHOWN_JOBS = 60


@dataclass(frozen=True)
class Estimate:
    """A lower bound of the memory for training a job.

    Args:
        parameters: parameters of the model.
        weights: bytes of parameters, gradients, buffers and the optimizer's state.
        activations: bytes that one training batch saves for the backward pass; None if they depend on values.
    """

    parameters: int
    weights: int
    activations: int | None

    @property
    def memory(self) -> str:
        total = self.weights + (self.activations or 0)
        return f"{format_bytes(total)}{'' if self.activations is not None else ' + activations'}"


def estimate(config: Config) -> Estimate:
    """Estimate a job. Its data are loaded, since their shapes are needed; its model is built on the meta device.

    Args:
        config: a checked config.
    """
    datamodule = build_data(config)
    datamodule.prepare_data()
    datamodule.setup()
    with torch.device("meta"):
        model = build_model(config, datamodule.spec)
    batch = next(iter(datamodule.loader("train")))
    activations = meta_saved_bytes(model, batch)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(model, config)
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in parameters if p.grad is not None), *state]
    return Estimate(sum(p.numel() for p in model.parameters()), sum(map(_bytes, tensors)), activations)


def print_plan(ledger: Ledger, jobs: list[Job], states: Mapping[int, State], due: list[bool]) -> None:
    """Print the jobs of a sweep, each with its action, parameters and memory."""
    cache: dict[str, Estimate] = {}
    table = new_table("job", "would", "what", "parameters", "memory", "folder", numbers=("job", "parameters", "memory"))
    for job, is_due in list(zip(jobs, due, strict=True))[:SHOWN_JOBS]:
        job_estimate = _estimate_of(ledger.config(job), cache)
        action = ACTIONS[states[job.number].status]
        would = action if is_due or action != "retry" else "leave"
        table.add_row(str(job.number), would, str(job), f"{job_estimate.parameters:,}", job_estimate.memory, job.slug)
    show(table)
    if len(jobs) > SHOWN_JOBS:
        echo(f"… and {len(jobs) - SHOWN_JOBS} more jobs")
    echo(f"{sum(due)} of {len(jobs)} jobs would run; this was a dry run, nothing was started")


def print_ranges(space: Space, ledger: Ledger, probes: list[Job]) -> None:
    """Print the ranges of a search, and the size of the models at the ends of each range.

    Args:
        space: space of the search.
        ledger: ledger of the jobs at the ends of the ranges.
        probes: these jobs.
    """
    table = new_table("key", "between")
    for axis in space.axes:
        table.add_row(axis.key, str(axis))
    show(table)
    cache: dict[str, Estimate] = {}
    estimates = [_estimate_of(ledger.config(job), cache) for job in probes]
    smallest, largest = (choose(estimates, key=lambda entry: entry.parameters) for choose in (min, max))
    for name, entry in {"smallest": smallest, "largest": largest}.items():
        echo(f"{name} model at the ends of the ranges: {entry.parameters:,} parameters, {entry.memory}")
    echo("this was a dry run, nothing was started")


def _estimate_of(config: dict[str, Any], cache: dict[str, Estimate]) -> Estimate:
    """Return the estimate of a config, computed once for each kind of job."""
    batch = config["datamodule"].get("batch_size")
    sections = [config["model"], config["datamodule"], config["optimizer"]["_target_"], batch]
    key = json.dumps(sections, sort_keys=True)
    if key not in cache:
        cache[key] = estimate(check(config))
    return cache[key]
