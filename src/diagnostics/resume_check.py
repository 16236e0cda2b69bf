"""Check that an interrupted and resumed run equals an uninterrupted one bit for bit."""

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.run_store.run_folder import RunFolder
from src.training.checkpoint_io import load_checkpoint
from src.training.resume import prepare_resume
from src.training.run import Interrupted, resume, run

VOLATILE_KEYS = ("time", "resumed")
"""Keys of metrics.jsonl that depend on when a line was written, and are not compared."""


class Interrupt(Callback):
    """Send a signal to this process after an optimizer step.

    Args:
        step: the step, counted from 1.
        signal_number: the signal.
    """

    def __init__(self, step: int, signal_number: int) -> None:
        self._step = step
        self._signal_number = signal_number
        self._sent = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step and not self._sent:
            self._sent = True
            os.kill(os.getpid(), self._signal_number)


@dataclass(frozen=True)
class Finding:
    """Result of a comparison: what was compared, whether it is equal, and the number of compared values."""

    name: str
    equal: bool
    detail: str


def check_resume(
    overrides: Sequence[str], report: Callable[[str], None] = print, seed: int | None = None
) -> list[Finding]:
    """Train a run without interruption, train it again interrupted at random steps and resumed, and compare everything.

    Args:
        overrides: overrides of the config, as on a command line.
        report: called with each line of the report.
        seed: seed of the random steps.

    Raises:
        UserError: if the config is invalid, or if the run is too short to be interrupted.
    """
    config = check(compose(overrides))
    rng = random.Random(seed)
    findings = []
    with TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        run_in_process(train_and_interrupt, config, whole)
        steps = _steps(whole)
        if steps < 3:
            raise UserError(f"this run takes {steps} steps; at least 3 are needed to interrupt it")
        report(f"uninterrupted: {steps} steps")
        for name in ("SIGINT", "SIGKILL"):
            step, interval = rng.randint(1, steps - 2), rng.randint(1, max(steps // 20, 4))
            parts = Path(temporary) / name
            report(f"{name} after step {step}, checkpoints every {interval} steps, then resumed:")
            changed = _with_interval(config, interval)
            run_in_process(train_and_interrupt, changed, parts, step, getattr(signal, name))
            if RunFolder.open(parts).record.get("status") == "finished":
                raise UserError(f"the run was not interrupted by {name}")
            run_in_process(resume_run, parts)
            for finding in compare(whole, parts):
                report(f"  {'equal    ' if finding.equal else 'DIFFERENT'} {finding.name}: {finding.detail}")
                findings.append(finding)
    return findings


def compare(one: Path, other: Path) -> Iterator[Finding]:
    """Compare everything that two runs of one config saved, except times and paths."""
    for name in ("last", "best"):
        states = [load_checkpoint(path / "checkpoints" / f"{name}.ckpt") for path in (one, other)]
        for key, name_of_part in (
            ("state_dict", "weights"),
            ("optimizer_states", "optimizer"),
            ("lr_schedulers", "schedules"),
            ("random_states", "random generators"),
            ("epoch", "epoch"),
            ("global_step", "step"),
        ):
            yield _finding(f"{name_of_part} of {name}.ckpt", *(state[key] for state in states))
    records = [RunFolder.open(path) for path in (one, other)]
    for key in ("best", "best_epoch", "final"):
        yield _finding(f"{key} of run.json", *(record.record[key] for record in records))
    rows = [
        [{key: value for key, value in row.items() if key not in VOLATILE_KEYS} for row in record.metrics()]
        for record in records
    ]
    yield _finding("lines of metrics.jsonl", *rows)


def _finding(name: str, one: Any, other: Any) -> Finding:
    differing = [path for path, equal in _leaves(one, other) if not equal]
    count = sum(1 for _ in _leaves(one, other))
    return Finding(name, not differing, f"{len(differing)} of {count}: {differing[0]}" if differing else f"{count}")


def _leaves(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of every value of two nested containers, and whether it is equal in both, bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _leaves(one.get(key), other.get(key), f"{path}.{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"{path}: {len(one)} and {len(other)} entries", False
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from _leaves(left, right, f"{path}[{index}]")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        yield path, one.dtype == other.dtype and torch.equal(one, other)
    else:
        yield path, one == other or (one != one and other != other)


def _steps(folder: Path) -> int:
    return int(load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"])


def _with_interval(config: Config, steps: int) -> Config:
    callbacks = {**config.callbacks, "checkpoints": {**(config.callbacks.get("checkpoints") or {})}}
    if not callbacks["checkpoints"]:
        raise UserError("callbacks.checkpoints is null: this run cannot be resumed")
    callbacks["checkpoints"]["every_n_steps"] = steps
    return config.model_copy(update={"callbacks": callbacks})


# ---- in separate processes -----------------------------------------------------------------------------------------


def run_in_process(task: Callable[..., None], *arguments: Any) -> None:
    process = get_context("spawn").Process(target=task, args=arguments)
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"the run failed, with exit code {process.exitcode}; its traceback is above")


def train_and_interrupt(config: Config, folder: Path, step: int = 0, signal_number: int = 0) -> None:
    logging.disable(logging.WARNING)
    with suppress(Interrupted):
        run(config, folder, verbose=False, callbacks=[Interrupt(step, signal_number)] if step else [])


def resume_run(folder: Path) -> None:
    logging.disable(logging.WARNING)
    resume(*prepare_resume(str(folder), []), verbose=False)
