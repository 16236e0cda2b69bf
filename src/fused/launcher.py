"""Local worker processes, each of which trains a group of jobs as one model, or one job."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.core.errors import UserError
from src.fused.grouping import differing_keys, plan_groups
from src.sweeping.launchers.local import LocalPool, local_pool
from src.sweeping.ledger import Job, Ledger
from src.sweeping.messages import Assignment, Ended, Event, Message, Rejected
from src.sweeping.worker import WorkerControl

FUSE_MODES = ("auto", "always", "never")
MAX_REASONS = 3
"""Number of reasons for not fusing jobs that are reported in full; for the others only the number of jobs is reported."""

EXIT_TIMEOUT = 5.0
"""Seconds that the process of a group may take to exit after all its jobs have ended."""


def _train_group(assignment: Assignment, control: WorkerControl) -> Ended:
    from src.fused.worker import train_group  # loads torch

    return train_group(assignment, control)


class FusedPool(LocalPool):
    """A worker pool in which each group of jobs takes one process.

    Args:
        settings: arguments of `LocalPool`.
        fuse: ``auto`` times both ways first, ``always`` fuses without timing, ``never`` makes no groups.
        members: maximum number of members of a group.
    """

    train_group = staticmethod(_train_group)

    def __init__(self, *settings: Any, fuse: str, members: int) -> None:
        super().__init__(*settings)
        self._fuse = fuse
        self._max_members = members
        self._group_of: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._incomplete_group: list[Assignment] = []
        self._running: dict[int, dict[int, Assignment]] = {}
        self._outputs: dict[int, Path] = {}
        self._backlog: deque[Assignment] = deque()
        self._stopping = False
        self._reported_reasons: set[str] = set()

    # ---- Grouping --------------------------------------------------------------------------------------------------

    def arrange(self, ledger: Ledger, jobs: Sequence[Job], complete: bool) -> tuple[list[Job], list[str]]:
        """Assign jobs to groups; return them ordered by group, and the lines to print."""
        if not complete:
            return list(jobs), ["fused: no job, because this search chooses each job from the results of others"]
        if self._fuse == "never":
            return list(jobs), ["fused: no job (hydra.launcher.fuse=never)"]
        if self._devices_per_job > 1:
            return list(jobs), [
                "fused: no job, because each process has several devices (hydra.launcher.devices_per_job)"
            ]
        configs = {job.number: ledger.config(job) for job in jobs}
        plan = plan_groups(configs, self._slots, self._max_members)
        messages = [_describe_groups(plan.groups, configs)] if plan.groups else []
        for index, numbers in enumerate(plan.groups, 1):
            self._sizes[-index] = len(numbers)
            self._group_of |= dict.fromkeys(numbers, -index)
        reasons = sorted(plan.unfused.items(), key=lambda entry: -len(entry[1]))
        for reason, numbers in reasons[:MAX_REASONS]:
            messages.append(f"not fused: {_count_jobs(len(numbers))}: {reason}")
        if remaining := sum(len(numbers) for _, numbers in reasons[MAX_REASONS:]):
            messages.append(f"not fused: {_count_jobs(remaining)}, for other reasons")
        order = {number: index for index, number in enumerate(n for group in plan.groups for n in group)}
        return sorted(jobs, key=lambda job: order.get(job.number, len(order))), messages

    # ---- Executor --------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Maximum number of jobs that run at a time: those of the groups, and those that are not fused."""
        return self._slots + len(self._group_of)

    def room(self, assignment: Assignment) -> bool:
        return bool(self._incomplete_group) or (not self._backlog and super().room(assignment))

    def start(self, assignment: Assignment) -> None:
        group = self._group_of.get(assignment.number)
        if group is None:
            super().start(assignment)
            return
        self._incomplete_group.append(assignment)
        if len(self._incomplete_group) < self._sizes[group]:
            return
        members, self._incomplete_group = tuple(self._incomplete_group), []
        self._running[group] = {member.number: member for member in members}
        output = members[0].output
        if output is not None:
            output = self._outputs[group] = output.with_name(f"fused-group-{-group}.log")
        super().start(replace(members[0], number=group, members=members, fuse=self._fuse, output=output))

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        while self._stopping and (waiting := self._incomplete_group or self._backlog):
            events.append(Ended(waiting.pop().number, "interrupted"))
        while self._backlog and super().room(self._backlog[0]):
            super().start(self._backlog.popleft())
        for event in super().wait(0 if events else timeout):
            number = getattr(event, "number", None)
            if isinstance(event, Ended) and number in self._running:
                events += self._handle_group_end(event)
            elif isinstance(event, Rejected):
                events += self._handle_rejection(event)
            else:
                if isinstance(event, Ended):
                    self._remove_from_group(event.number)
                events.append(event)
        return events

    def stop(self, order: str, number: int | None = None) -> None:
        super().stop(order, number)
        if number is None:
            self._stopping = True

    def kill(self) -> None:
        self._stopping = True
        super().kill()

    def close(self) -> None:
        for worker in () if self._stopping else self._workers:
            if self._running.get(worker.assignment.number) == {}:  # all jobs have ended; the process is cleaning up
                worker.process.join(EXIT_TIMEOUT)
        super().close()

    # ---- Groups that run -------------------------------------------------------------------------------------------

    def _remove_from_group(self, number: int) -> Assignment | None:
        """Remove a job from its running group; return it if it was in one."""
        members = self._running.get(self._group_of.get(number, 0), {})
        return members.pop(number, None)

    def _handle_rejection(self, event: Rejected) -> list[Event]:
        """Queue a job that its group cannot train, and report each reason once."""
        if (member := self._remove_from_group(event.number)) is not None:
            self._backlog.append(member)
        if event.reason in self._reported_reasons:
            return []
        self._reported_reasons.add(event.reason)
        return [Message(f"some jobs are not fused after all: {event.reason}")]

    def _handle_group_end(self, event: Ended) -> list[Event]:
        """Queue the jobs that a group has not finished, for example because its process was killed."""
        unfinished = self._running.pop(event.number)
        events: list[Event] = []
        if (output := self._outputs.pop(event.number, None)) is not None and output.is_file():
            if event.status == "failed" and not self._stopping and output.stat().st_size:
                path = output.replace(output.parent.parent / output.name)
                events.append(Message(f"output of group {-event.number}, which failed: {path}"))
            output.unlink(missing_ok=True)
        if self._stopping:
            return [Ended(number, event.status, event.error) for number in unfinished]
        self._backlog += unfinished.values()
        if unfinished:
            cause = event.error.strip().splitlines()[-1] if event.error else event.status
            count = _count_jobs(len(unfinished))
            events.insert(
                0, Message(f"group {-event.number} ended with {count} unfinished, which continue unfused: {cause}")
            )
        return events


def _describe_groups(groups: Sequence[Sequence[int]], configs: Mapping[int, dict[str, object]]) -> str:
    total = sum(map(len, groups))
    keys = list(dict.fromkeys(key for group in groups for key in differing_keys([configs[job] for job in group])))
    listed = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more keys" if len(keys) > 6 else "")
    sizes = " and ".join(map(str, sorted({len(group) for group in groups}, reverse=True)))
    plural = "s" if len(groups) > 1 else ""
    return f"fused: {_count_jobs(total)} in {len(groups)} group{plural} of {sizes}, which differ in {listed}"


def _count_jobs(number: int) -> str:
    return f"{number} job{'s' * (number > 1)}"


def fused_pool(
    master: DictConfig, fuse: str, members: int, jobs: int | None, devices_per_job: int, threads: int | None
) -> Callable[[Path], LocalPool]:
    """Return a function that makes the pool of a sweep from the sweep's folder.

    Args:
        master: the config of the whole sweep.
        fuse, members, jobs, devices_per_job, threads: see conf/hydra/launcher/fused.yaml.

    Raises:
        UserError: if a setting is out of its range.
    """
    if fuse not in FUSE_MODES:
        raise UserError(f"hydra.launcher.fuse={fuse}: must be one of {', '.join(FUSE_MODES)}")
    if not isinstance(members, int) or members < 2:
        raise UserError(f"hydra.launcher.members={members}: must be a whole number of 2 or more")
    return local_pool(master, jobs, devices_per_job, threads, partial(FusedPool, fuse=fuse, members=members))
