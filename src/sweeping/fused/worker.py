"""What the worker process of a group does: its members as one, in parts that are at the same step of their runs."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from src.config import schema
from src.config.check import check
from src.config.combinations import monitor_of
from src.config.schema import Config
from src.errors import UserError
from src.experiment import build_trainer, prepared_data, seeded_model
from src.population.reasons import reason
from src.sweeping.fused.data import order_problem
from src.sweeping.fused.logs import MembersLog
from src.sweeping.fused.member import Member
from src.sweeping.fused.training import Group
from src.sweeping.reporting import Reporter
from src.sweeping.worker import Assignment, Declined, Ended, Orders, Said, begun
from src.tracking.load_checkpoint import load_checkpoint
from src.tracking.run_folder import RunFolder
from src.tracking.stopping import stop_request
from src.tracking.summary import summarize

log = logging.getLogger(__name__)


def together(assignment: Assignment, orders: Orders) -> Ended:
    """Train the members of an assignment as one, as far as that can be; those with which it cannot are declined.

    Args:
        assignment: with members, whose configs `src.sweeping.fused.grouping` found alike.
        orders: events go out.
    """
    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    left = {member.number: member for member in assignment.members}

    def send(event: Any) -> None:
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
        log.exception("a group of %d jobs failed as one", len(left))
        for number in list(left):
            send(Declined(number, f"training them as one failed: {type(error).__name__}: {error}"))
    return Ended(assignment.number, "finished")


def _parts(assignment: Assignment, send: Any) -> None:
    """Train members that are at the same step as one, and decline those that are alone at theirs."""
    found = [begun(member.folder) for member in assignment.members]
    parts: dict[int, list[tuple[Assignment, RunFolder | None, dict[str, Any] | None]]] = defaultdict(list)
    for member, folder in zip(assignment.members, found, strict=True):
        state = load_checkpoint(folder.last_checkpoint) if folder and folder.has_checkpoint("last") else None
        parts[state["global_step"] if state else 0].append((member, folder, state))
    configs = _configs([member.config for member in assignment.members])
    by_number = {member.number: config for member, config in zip(assignment.members, configs, strict=True)}
    for step, part in sorted(parts.items()):
        if len(part) == 1:
            send(Declined(part[0][0].number, f"no other is at step {step}"))
        else:
            _train(part, [by_number[member.number] for member, _, _ in part], assignment, send)


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
        if isinstance(section, schema.Option) and section.target != value["_target_"]:
            return check(other)
        changed[key] = type(section).model_validate(value) if isinstance(section, schema.Section) else value
    return first.model_copy(update=changed)


def _train(
    part: Sequence[tuple[Assignment, RunFolder | None, dict[str, Any] | None]],
    configs: Sequence[Config],
    assignment: Assignment,
    send: Any,
) -> None:
    why = reason(configs)
    datamodule = None
    if why is None:
        datamodule = prepared_data(configs[0])
        why = order_problem(datamodule, [config.datamodule.seed for config in configs])
    if why is not None or datamodule is None:
        for member, _, _ in part:
            send(Declined(member.number, why or ""))
        return
    summary = summarize(seeded_model(configs[0], datamodule), next(iter(datamodule.loader("train"))))
    folders = []
    for (member, folder, _), config in zip(part, configs, strict=True):
        monitor, mode = monitor_of(config, datamodule.spec.task)
        facts = {"monitor": monitor, "mode": mode}
        facts |= {"parameters": summary.parameters, "multiply_adds": summary.multiply_adds}
        if folder is None:
            folder = RunFolder.create(member.folder, config.plain(), member.command, **facts)
        else:
            folder.note(**facts)
            folder.resume(config.plain())
        folders.append(folder)
    members: list[Member] = []
    records = MembersLog(folders)
    with records.kept(), stop_request.heard():
        try:
            datamodule.say_where()
            log.info("steps: as one with %d other jobs, src/sweeping/fused", len(part) - 1)
            trainer = build_trainer(configs[0])
            for (job, _, _), config, folder in zip(part, configs, folders, strict=True):
                reporter = Reporter(job.number, send)
                members.append(Member(job.number, config, folder, datamodule, trainer, [reporter]))
            group = Group(
                members,
                trainer,
                datamodule,
                [state for _, _, state in part],
                records,
                failed=lambda member, error: send(Ended(member.number, "failed", _traceback(error))),
                ended=lambda member: send(Ended(member.number, "finished")),
            )
            group.train()
        except (KeyboardInterrupt, SystemExit) as stop:
            for member in members:
                if not member.gone:
                    member.interrupt()
            for folder in folders:
                if folder.record["status"] == "running":
                    folder.interrupt()
            raise KeyboardInterrupt from stop
        finally:
            for member in members:
                if not member.gone:
                    member.close(1)


def _traceback(error: BaseException) -> str:
    import traceback

    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
