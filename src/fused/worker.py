"""What the worker process of a group does: its members as one, in parts that are at the same step of their runs."""

import logging
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from src.compat.group_loop import group_problem
from src.config.combinations import monitor_of
from src.config.schema.base import Option, Section
from src.config.schema.run import Config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import first_line
from src.core.process import keep_freed_memory
from src.core.resources import available_memory
from src.core.signals import stop_request
from src.datamodules.base import DataModule
from src.fused.group import Group
from src.fused.member import Member
from src.fused.member_log import MembersLog
from src.fused.overridden_hooks import own_step
from src.fused.speed_trial import trial
from src.fused.stacked_loader import order_problem
from src.models.summary import bytes_of, summarize
from src.run_store.atomic_write import replaced_together
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import Assignment, Declined, Ended, Event, Said
from src.sweeping.worker import Orders, begun, told
from src.sweeping.worker_callback import Reporter
from src.training.build import build_trainer
from src.training.checkpoint_io import load_checkpoint
from src.training.experiment import prepared_data, seeded_model

log = logging.getLogger(__name__)

Send = Callable[[Event], None]


@dataclass(frozen=True)
class _Job:
    """A member before it is trained: what it was given, and what it goes on with if it was begun before."""

    assignment: Assignment
    config: Config
    folder: RunFolder | None
    state: dict[str, Any] | None

    @property
    def number(self) -> int:
        return self.assignment.number


def together(assignment: Assignment, orders: Orders) -> Ended:
    """Train the members of an assignment as one, as far as that can be; those with which it cannot are declined.

    Args:
        assignment: with members, whose configs `src.fused.grouping` found alike.
        orders: events go out.
    """
    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    keep_freed_memory()
    left = {member.number: member for member in assignment.members}

    def send(event: Event) -> None:
        if isinstance(event, Ended | Declined):
            left.pop(event.number, None)
        orders.send(event)

    try:
        _parts(assignment, send)
    except (KeyboardInterrupt, SystemExit):
        for number in list(left):
            send(Ended(number, orders.outcome))
        return Ended(assignment.number, orders.outcome)
    except Exception as error:
        echo(traceback.format_exc(), end="", file=sys.stderr)
        for number in list(left):
            send(Declined(number, f"training them as one failed: {type(error).__name__}: {first_line(error)}"))
        return Ended(assignment.number, "failed", told(error))
    return Ended(assignment.number, "finished")


def _parts(assignment: Assignment, send: Send) -> None:
    """Train members that are at the same step as one, and decline those that are alone at theirs."""
    configs = _configs([member.config for member in assignment.members])
    if (problem := group_problem(build_trainer(configs[0]))) is not None:
        for member in assignment.members:
            send(Declined(member.number, problem))
        return
    parts: dict[int, list[_Job]] = defaultdict(list)
    for member, config in zip(assignment.members, configs, strict=True):
        try:
            folder = begun(member.folder)
            state = load_checkpoint(folder.last_checkpoint) if folder and folder.has_checkpoint("last") else None
        except Exception as error:  # on its own it fails as any run does
            send(Declined(member.number, first_line(error)))
            continue
        parts[state["global_step"] if state else 0].append(_Job(member, config, folder, state))
    for step, jobs in sorted(parts.items()):
        if len(jobs) == 1:
            send(Declined(jobs[0].number, f"no other job of its group is at step {step}"))
            continue
        datamodule = prepared_data(jobs[0].config)
        if problem := order_problem(datamodule, [job.config.datamodule.seed for job in jobs]):
            _decline(jobs, problem, send)
            continue
        model = seeded_model(jobs[0].config, datamodule)
        if (hook := own_step(type(model), type(datamodule))) is not None:
            _decline(jobs, f"{hook} would not be called for jobs that are trained as one", send)
            continue
        size = min(len(jobs), _room(model))
        if assignment.fuse == "auto" and size > 1:
            measured = trial([job.config for job in jobs[:size]], datamodule)
            size = measured.size
            send(Said(f"group {-assignment.number}, {len(jobs)} jobs: {measured}"))
        if size == 1:
            _decline(jobs, "one by one is as fast", send)
            continue
        parts_of_size = -(-len(jobs) // size)
        for part in range(parts_of_size):
            _train(jobs[part::parts_of_size], datamodule, send)


COPIES, SHARE = 8, 0.25
"""Of the parameters of a member: weights, gradients, what an optimizer remembers, and the best of them in memory; and the
share of the free memory that all members may take with them.
"""


def _room(model: torch.nn.Module) -> int:
    """Return how many members have room in the memory."""
    return max(1, int(SHARE * available_memory() / max(1, COPIES * bytes_of(model))))


def _decline(jobs: Sequence[_Job], why: str, send: Send) -> None:
    for job in jobs:
        send(Declined(job.number, why))


def _configs(plain: Sequence[dict[str, Any]]) -> list[Config]:
    """Return the checked configs of members; they were checked when they were entered in the ledger, so that of those
    after the first only what differs is read.
    """
    first = check(plain[0])
    return [first, *(_like(first, plain[0], other) for other in plain[1:])]


def _like(first: Config, its: dict[str, Any], other: dict[str, Any]) -> Config:
    changed = {}
    for key, value in other.items():
        if value == its.get(key):
            continue
        section = getattr(first, key)
        if isinstance(section, Option) and section.target != value["_target_"]:
            return check(other)
        changed[key] = type(section).model_validate(value) if isinstance(section, Section) else value
    return first.model_copy(update=changed)


def _train(jobs: Sequence[_Job], datamodule: DataModule, send: Send) -> None:
    """Train jobs as one to their ends."""
    config = jobs[0].config
    members: list[Member] = []
    folders: list[RunFolder] = []
    records = MembersLog()
    with records.kept(), stop_request.heard():
        try:
            summary = summarize(seeded_model(config, datamodule), next(iter(datamodule.loader("train"))))
            facts = {"parameters": summary.parameters, "multiply_adds": summary.multiply_adds}
            ready: list[_Job] = []
            with replaced_together():
                for job in jobs:
                    try:
                        folders.append(_opened(job, datamodule, facts))
                    except Exception as error:  # on its own it fails as any run does
                        send(Declined(job.number, first_line(error)))
                        continue
                    records.add(folders[-1])
                    ready.append(job)
            if not ready:
                return
            datamodule.say_where()
            log.info("steps: as one with those of %d other jobs, src/fused", len(ready) - 1)
            trainer = build_trainer(config)
            for job, folder in zip(ready, folders, strict=True):
                reporter = Reporter(job.number, send)
                members.append(Member(job.number, job.config, folder, datamodule, trainer, [reporter]))
            group = Group(
                members,
                trainer,
                datamodule,
                [job.state for job in ready],
                records,
                failed=lambda member, error: send(Ended(member.number, "failed", told(error))),
                ended=lambda member: send(Ended(member.number, "finished")),
            )
            group.train()
        except (KeyboardInterrupt, SystemExit) as stop:
            for member in members:
                if not member.gone:
                    member.interrupt()
            raise KeyboardInterrupt from stop
        finally:
            for member in members:
                if not member.gone:
                    member.close(1)
            for folder in folders:  # they go on another time, or on their own
                if folder.record["status"] == "running":
                    folder.interrupt()


def _opened(job: _Job, datamodule: DataModule, facts: dict[str, Any]) -> RunFolder:
    """Return the run folder of a job, with the facts in its record: a new one, or that in which it goes on."""
    monitor, mode = monitor_of(job.config, datamodule.spec.task)
    facts = {"monitor": monitor, "mode": mode, **facts}
    if job.folder is None:
        return RunFolder.create(job.assignment.folder, job.config.plain(), job.assignment.command, **facts)
    job.folder.note(**facts)
    job.folder.resume(job.config.plain())
    return job.folder
