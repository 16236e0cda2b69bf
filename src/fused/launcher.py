"""Worker processes of this machine, of which each trains many jobs of a sweep as one, or one job as it is."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.core.errors import UserError
from src.fused.grouping import differing, plan
from src.sweeping.launchers.local import LocalPool, local_pool
from src.sweeping.ledger import Job, Ledger
from src.sweeping.messages import Assignment, Declined, Ended, Event, Said
from src.sweeping.worker import Orders

WAYS = ("auto", "always", "never")
REASONS = 3
"""Reasons why jobs run on their own that are told; of the others, how many."""

GRACE = 5.0
"""Seconds that a group's process has to end in, when all its jobs have."""


def _train_group(assignment: Assignment, orders: Orders) -> Ended:
    from src.fused.worker import together  # loads torch

    return together(assignment, orders)


class FusedPool(LocalPool):
    """A pool in which groups of jobs take one process each.

    Args:
        settings: of `LocalPool`.
        fuse: ``auto`` times both ways first, ``always`` does not, ``never`` makes no groups.
        members: most members of a group.
    """

    train_group = staticmethod(_train_group)

    def __init__(self, *settings: Any, fuse: str, members: int) -> None:
        super().__init__(*settings)
        self._fuse = fuse
        self._most = members
        self._group_of: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._gathered: list[Assignment] = []
        self._inside: dict[int, dict[int, Assignment]] = {}
        self._outputs: dict[int, Path] = {}
        self._backlog: deque[Assignment] = deque()
        self._stopping = False
        self._told: set[str] = set()

    # ---- before it begins ------------------------------------------------------------------------------------------

    def arrange(self, ledger: Ledger, jobs: Sequence[Job], known: bool) -> tuple[list[Job], list[str]]:
        """Put jobs into groups, those of one after the other."""
        if not known:
            return list(jobs), ["fused: nothing, as a search that learns starts jobs one by one; all run on their own"]
        if self._fuse == "never":
            return list(jobs), ["fused: nothing, as hydra.launcher.fuse=never; all jobs run on their own"]
        if self._devices_per_job > 1:
            return list(jobs), ["fused: nothing, as each process has several devices (hydra.launcher.devices_per_job)"]
        configs = {job.number: ledger.config(job) for job in jobs}
        found = plan(configs, self._slots, self._most)
        said = [_grouped(found.groups, configs)] if found.groups else []
        for index, numbers in enumerate(found.groups, 1):
            self._sizes[-index] = len(numbers)
            self._group_of |= dict.fromkeys(numbers, -index)
        reasons = sorted(found.alone.items(), key=lambda entry: -len(entry[1]))
        for reason, numbers in reasons[:REASONS]:
            said.append(f"on their own: {_counted(len(numbers))}, as {reason}")
        if left := sum(len(numbers) for _, numbers in reasons[REASONS:]):
            said.append(f"on their own: {_counted(left)}, for other reasons")
        order = {number: place for place, number in enumerate(n for group in found.groups for n in group)}
        return sorted(jobs, key=lambda job: order.get(job.number, len(order))), said

    # ---- Executor --------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """How many jobs run at a time: those of the groups, and those that run on their own."""
        return self._slots + len(self._group_of)

    def room(self, assignment: Assignment) -> bool:
        return bool(self._gathered) or (not self._backlog and super().room(assignment))

    def start(self, assignment: Assignment) -> None:
        group = self._group_of.get(assignment.number)
        if group is None:
            super().start(assignment)
            return
        self._gathered.append(assignment)
        if len(self._gathered) < self._sizes[group]:
            return
        members, self._gathered = tuple(self._gathered), []
        self._inside[group] = {member.number: member for member in members}
        output = members[0].output
        if output is not None:
            output = self._outputs[group] = output.with_name(f"fused-group-{-group}.log")
        super().start(replace(members[0], number=group, members=members, fuse=self._fuse, output=output))

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        while self._stopping and (waiting := self._gathered or self._backlog):
            events.append(Ended(waiting.pop().number, "interrupted"))
        while self._backlog and super().room(self._backlog[0]):
            super().start(self._backlog.popleft())
        for event in super().wait(0 if events else timeout):
            number = getattr(event, "number", None)
            if isinstance(event, Ended) and number in self._inside:
                events += self._end_of_group(event)
            elif isinstance(event, Declined):
                events += self._decline(event)
            else:
                if isinstance(event, Ended):
                    self._forget(event.number)
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
            if self._inside.get(worker.assignment.number) == {}:  # all of it has ended, and it clears up after itself
                worker.process.join(GRACE)
        super().close()

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _forget(self, number: int) -> Assignment | None:
        """Take a job out of its group; return it if it was in one."""
        inside = self._inside.get(self._group_of.get(number, 0), {})
        return inside.pop(number, None)

    def _decline(self, event: Declined) -> list[Event]:
        if (member := self._forget(event.number)) is not None:
            self._backlog.append(member)
        if event.reason in self._told:
            return []
        self._told.add(event.reason)
        return [Said(f"some jobs run on their own after all, as {event.reason}")]

    def _end_of_group(self, event: Ended) -> list[Event]:
        """Let the jobs that a group has not brought to an end run on their own, as when its process was killed."""
        left = self._inside.pop(event.number)
        said: list[Event] = []
        if (output := self._outputs.pop(event.number, None)) is not None and output.is_file():
            if event.status == "failed" and not self._stopping and output.stat().st_size:
                kept = output.replace(output.parent.parent / output.name)
                said.append(Said(f"what group {-event.number} printed before it failed: {kept}"))
            output.unlink(missing_ok=True)
        if self._stopping:
            return [Ended(number, event.status, event.error) for number in left]
        self._backlog += left.values()
        if left:
            ending = event.error.strip().splitlines()[-1] if event.error else event.status
            said.insert(
                0, Said(f"group {-event.number} ended before {_counted(len(left))} of it, which go on alone: {ending}")
            )
        return said


def _grouped(groups: Sequence[Sequence[int]], configs: Mapping[int, dict[str, object]]) -> str:
    total = sum(map(len, groups))
    keys = list(dict.fromkeys(key for group in groups for key in differing([configs[number] for number in group])))
    shown = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more keys" if len(keys) > 6 else "")
    sizes = " and ".join(map(str, sorted({len(group) for group in groups}, reverse=True)))
    return (
        f"fused: {_counted(total)} in {len(groups)} group{'s' * (len(groups) > 1)} of {sizes}, which differ in {shown}"
    )


def _counted(number: int) -> str:
    return f"{number} job{'s' * (number > 1)}"


def fused_pool(
    master: DictConfig, fuse: str, members: int, jobs: int | None, devices_per_job: int, threads: int | None
) -> Callable[[Path], LocalPool]:
    """Return what makes the pool that the settings of the launcher ask for, for any sweep's folder.

    Args:
        master: the config of the whole sweep.
        fuse, members, jobs, devices_per_job, threads: see conf/hydra/launcher/fused.yaml.

    Raises:
        UserError: if a setting is out of its range.
    """
    if fuse not in WAYS:
        raise UserError(f"hydra.launcher.fuse={fuse}: must be one of {', '.join(WAYS)}")
    if not isinstance(members, int) or members < 2:
        raise UserError(f"hydra.launcher.members={members}: must be a whole number of 2 or more")
    return local_pool(master, jobs, devices_per_job, threads, partial(FusedPool, fuse=fuse, members=members))
