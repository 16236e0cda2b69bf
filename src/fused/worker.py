"""Worker process of a group: trains the members as one model, in parts whose runs are at the same step."""

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
from src.config.schema.run import Config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import first_line
from src.core.process import tune_allocator
from src.core.resources import available_memory
from src.core.signals import shutdown_request
from src.datamodules.base import DataModule
from src.fused.group import Group
from src.fused.member import Member
from src.fused.member_log import MembersLog
from src.fused.overridden_hooks import overridden_hook
from src.fused.speed_trial import run_speed_trial
from src.fused.stacked_loader import order_problem
from src.models.summary import parameter_bytes, summarize
from src.run_store.atomic_write import batch_writes
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import Assignment, Ended, Event, Message, Rejected
from src.sweeping.worker import WorkerControl, error_text, open_started_run
from src.sweeping.worker_callback import Reporter
from src.training.build import build_trainer
from src.training.checkpoint_io import load_checkpoint
from src.training.experiment import build_seeded_model, prepare_datamodule

log = logging.getLogger(__name__)

Send = Callable[[Event], None]


@dataclass(frozen=True)
class _Job:
    """A member before training: its assignment, and the folder and checkpoint of its run if it was started before."""

    assignment: Assignment
    config: Config
    folder: RunFolder | None
    state: dict[str, Any] | None

    @property
    def number(self) -> int:
        return self.assignment.number


def train_group(assignment: Assignment, control: WorkerControl) -> Ended:
    """Train the members of an assignment as one model; those that cannot be fused are rejected and run separately.

    Args:
        assignment: has members, whose configs `src.fused.grouping` put into one group.
        control: receives the events.
    """
    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    tune_allocator()
    pending = {member.number: member for member in assignment.members}

    def send(event: Event) -> None:
        if isinstance(event, Ended | Rejected):
            pending.pop(event.number, None)
        control.send(event)

    try:
        _train_members(assignment, send)
    except (KeyboardInterrupt, SystemExit):
        for number in list(pending):
            send(Ended(number, control.outcome))
        return Ended(assignment.number, control.outcome)
    except Exception as error:
        echo(traceback.format_exc(), end="", file=sys.stderr)
        for number in list(pending):
            send(Rejected(number, f"fused training failed: {type(error).__name__}: {first_line(error)}"))
        return Ended(assignment.number, "failed", error_text(error))
    return Ended(assignment.number, "finished")


def _train_members(assignment: Assignment, send: Send) -> None:
    """Train members that are at the same step as one model, and reject members that are the only one at their step."""
    configs = [check(member.config) for member in assignment.members]
    if (problem := group_problem(build_trainer(configs[0]))) is not None:
        _reject(assignment.members, problem, send)
        return
    jobs_at_step: dict[int, list[_Job]] = defaultdict(list)
    for member, config in zip(assignment.members, configs, strict=True):
        try:
            folder = open_started_run(member.folder)
            state = load_checkpoint(folder.checkpoint("last")) if folder and folder.has_checkpoint("last") else None
        except Exception as error:  # as a separate run it fails as any run does
            send(Rejected(member.number, first_line(error)))
            continue
        jobs_at_step[state["global_step"] if state else 0].append(_Job(member, config, folder, state))
    for step, jobs in sorted(jobs_at_step.items()):
        if len(jobs) == 1:
            send(Rejected(jobs[0].number, f"no other job of its group is at step {step}"))
            continue
        datamodule = prepare_datamodule(jobs[0].config)
        if problem := order_problem(datamodule, [job.config.datamodule.seed for job in jobs]):
            _reject(jobs, problem, send)
            continue
        model = build_seeded_model(jobs[0].config, datamodule)
        if (hook := overridden_hook(type(model), type(datamodule))) is not None:
            _reject(jobs, f"fused training would not call {hook}", send)
            continue
        size = min(len(jobs), _max_members(model))
        if assignment.fuse == "auto" and size > 1:
            speed = run_speed_trial([job.config for job in jobs[:size]], datamodule)
            size = speed.size
            send(Message(f"group {-assignment.number}, {len(jobs)} jobs: {speed}"))
        if size == 1:
            _reject(jobs, "fused training is not faster", send)
            continue
        part_count = -(-len(jobs) // size)
        for part in range(part_count):
            _train(jobs[part::part_count], datamodule, send)


COPIES_PER_PARAMETER = 8
"""Estimated size of a member, in times of its parameters: weights, gradients, optimizer state, best weights in memory."""
MEMORY_SHARE = 0.25
"""Share of the free memory that all members may take."""


def _max_members(model: torch.nn.Module) -> int:
    """Return how many members fit into memory."""
    return max(1, int(MEMORY_SHARE * available_memory() / max(1, COPIES_PER_PARAMETER * parameter_bytes(model))))


def _reject(jobs: Sequence[_Job | Assignment], reason: str, send: Send) -> None:
    for job in jobs:
        send(Rejected(job.number, reason))


def _train(jobs: Sequence[_Job], datamodule: DataModule, send: Send) -> None:
    """Train jobs as one model until all of them have ended."""
    config = jobs[0].config
    members: list[Member] = []
    folders: list[RunFolder] = []
    logs = MembersLog()
    with logs.capture(), shutdown_request.installed():
        try:
            summary = summarize(build_seeded_model(config, datamodule), next(iter(datamodule.loader("train"))))
            facts = {"parameters": summary.parameters, "multiply_adds": summary.multiply_adds}
            opened_jobs: list[_Job] = []
            with batch_writes():
                for job in jobs:
                    try:
                        folders.append(_open_folder(job, datamodule, facts))
                    except Exception as error:  # as a separate run it fails as any run does
                        send(Rejected(job.number, first_line(error)))
                        continue
                    logs.add(folders[-1])
                    opened_jobs.append(job)
            if not opened_jobs:
                return
            datamodule.log_storage()
            log.info("training loop: fused with %d other jobs (src/fused)", len(opened_jobs) - 1)
            trainer = build_trainer(config)
            for job, folder in zip(opened_jobs, folders, strict=True):
                reporter = Reporter(job.number, send)
                members.append(Member(job.number, job.config, folder, datamodule, trainer, [reporter]))
            group = Group(
                members,
                trainer,
                datamodule,
                [job.state for job in opened_jobs],
                logs,
                on_failed=lambda member, error: send(Ended(member.number, "failed", error_text(error))),
                on_finished=lambda member: send(Ended(member.number, "finished")),
            )
            group.train()
        except (KeyboardInterrupt, SystemExit) as stop:
            for member in members:
                if not member.closed:
                    member.interrupt()
            raise KeyboardInterrupt from stop
        finally:
            for member in members:
                if not member.closed:
                    member.close(1)
            for folder in folders:  # these runs can be resumed, in a group or separately
                if folder.record["status"] == "running":
                    folder.interrupt()


def _open_folder(job: _Job, datamodule: DataModule, facts: dict[str, Any]) -> RunFolder:
    """Return the run folder of a job, created or resumed, with the facts in its record."""
    monitor, mode = monitor_of(job.config, datamodule.spec.task)
    facts = {"monitor": monitor, "mode": mode, **facts}
    if job.folder is None:
        return RunFolder.create(job.assignment.folder, job.config.plain(), job.assignment.command, **facts)
    job.folder.set_entries(**facts)
    job.folder.resume(job.config.plain())
    return job.folder
