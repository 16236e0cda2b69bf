"""The objectives of a search: metrics of a job's best epoch, and its costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.config.combinations import monitor_of
from src.config.schema.run import Config
from src.core.errors import UserError, nearest
from src.tasks.registry import TASKS, direction

COSTS = ("parameters", "multiply_adds", "seconds")
"""Fields of run.json that a search may minimize."""


@dataclass(frozen=True)
class Objective:
    """A number in the record of a job, to be minimized or maximized.

    Args:
        name: such as ``val/loss`` or ``parameters``.
        mode: ``min`` or ``max``.
    """

    name: str
    mode: str

    def value(self, record: Mapping[str, Any]) -> float | None:
        """Return the value from run.json; None if it is missing or not a number."""
        best = record.get("best")
        metrics = best if isinstance(best, Mapping) else {}
        value = (record if self.name in COSTS else metrics).get(self.name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def objectives_of(names: Sequence[str] | None, configs: Iterable[Config]) -> tuple[Objective, ...]:
    """Return the objectives of a search.

    Args:
        names: ``search.objectives``; None selects the monitored metric.
        configs: configs of jobs, at least one of each kind.

    Raises:
        UserError: if a job does not log an objective, or if the jobs monitor different metrics.
    """
    monitors: set[Objective] = set()
    allowed: set[str] | None = None
    for config in configs:
        task = config.datamodule.task
        metrics = {f"val/{name}" for name in TASKS[task].metrics} if task in TASKS else {"val/loss"}
        allowed = metrics if allowed is None else allowed & metrics
        monitors.add(_monitor(config))
    assert allowed is not None, "a search has a config"
    if names is None:
        if len(monitors) > 1:
            listed = ", ".join(sorted(f"{monitor.name} ({monitor.mode})" for monitor in monitors))
            raise UserError(f"these jobs monitor different metrics ({listed}): set one monitor=… for all")
        return tuple(monitors)
    modes = {monitor.name: monitor.mode for monitor in monitors} | dict.fromkeys(COSTS, "min")
    for name in names:
        if name not in modes and name not in allowed:
            raise UserError(f"search.objectives: {name}: {nearest(name, {*modes, *allowed})}")
        modes.setdefault(name, direction(task or "", name) if task in TASKS else "min")
    if len(set(names)) < len(names):
        raise UserError("search.objectives: an objective is given twice")
    return tuple(Objective(name, modes[name]) for name in names)


def _monitor(config: Config) -> Objective:
    task = config.datamodule.task
    if task in TASKS:
        return Objective(*monitor_of(config, task))
    name = config.monitor or "val/loss"
    return Objective(name, "min" if "loss" in name or "error" in name else "max")
