"""What a search goes by: metrics of the best epoch of a job, and what the job costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.config.combinations import monitor_of
from src.config.schema.run import Config
from src.core.errors import UserError, nearest
from src.tasks.registry import TASKS, direction

COSTS = ("parameters", "multiply_adds", "seconds")
"""Numbers of run.json that a search may keep small."""


@dataclass(frozen=True)
class Objective:
    """A number of a job's record.

    Args:
        name: such as ``val/loss`` or ``parameters``.
        mode: whether it is to be ``min`` or ``max``.
    """

    name: str
    mode: str

    def value(self, record: Mapping[str, Any]) -> float | None:
        """Return it from run.json; None where it is not there, or is no number."""
        best = record.get("best")
        known = record if self.name in COSTS else best if isinstance(best, Mapping) else {}
        found = known.get(self.name)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def objectives_of(names: Sequence[str] | None, configs: Iterable[Config]) -> tuple[Objective, ...]:
    """Return the objectives of a search.

    Args:
        names: ``search.objectives``; None is the monitored metric.
        configs: of jobs, at least one of each kind.

    Raises:
        UserError: if a job does not measure one, or if the jobs are not measured alike.
    """
    monitors: set[Objective] = set()
    allowed: set[str] | None = None
    for config in configs:
        task = config.datamodule.task
        known = {f"val/{name}" for name in TASKS[task].metrics} if task in TASKS else {"val/loss"}
        allowed = known if allowed is None else allowed & known
        monitors.add(_monitor(config))
    assert allowed is not None, "a search has a config"
    if names is None:
        if len(monitors) > 1:
            listed = ", ".join(sorted(f"{monitor.name} ({monitor.mode})" for monitor in monitors))
            raise UserError(f"these jobs are not measured alike, but by {listed}: give one monitor=… to all")
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
