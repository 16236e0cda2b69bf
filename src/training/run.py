"""Run one experiment: train, test, and record the result."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.compat.lean_imports import lean

with lean():
    import lightning  # noqa: F401 - before any other import of it, without what a run does not use

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from src.config.combinations import monitor_of
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.core.process import keep_freed_memory
from src.core.signals import stop_request
from src.loggers.factory import build_loggers, close_loggers
from src.models.summary import summarize
from src.run_store import train_log
from src.run_store.best_epoch import best_epoch, last_epoch
from src.run_store.run_folder import RunFolder, new_run_path
from src.training import console_report
from src.training.checkpoint_check import CheckpointCheck
from src.training.experiment import Experiment, build
from src.training.resume import resumed

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; the message says how to go on."""


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Args:
        folder: the run folder, with everything that was recorded.
        status: ``finished``, ``failed`` or ``interrupted``.
        monitor: the metric that selected the best epoch, and `mode` its direction.
        value: the best value of it; where no best checkpoint was kept, the last.
        metrics: metrics of the best epoch and of the test split, by ``split/name``; where no best checkpoint was kept, of
            the last epoch, whose weights were tested.
        seconds: wall-clock time.
    """

    folder: Path
    status: str
    monitor: str
    mode: str
    value: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def run(
    what: Config | DictConfig | Sequence[str],
    folder: Path | None = None,
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
    command: Sequence[str] = (),
) -> RunResult:
    """Train, test and record one run.

    Args:
        what: the words of a command line (``["model=mlp", "optimizer.lr=0.01"]``), a composed or a checked config.
        folder: the run folder to make; by default a new one under ``paths.outputs``.
        verbose: print what is trained, the progress and the results.
        callbacks: beside those of the config.
        command: the words that the record shows; by default those of this process.

    Raises:
        UserError: if the config or the data are wrong; no run folder is left then.
        Interrupted: after Ctrl-C.
    """
    config = what if isinstance(what, Config) else check(what if isinstance(what, DictConfig) else compose(what))
    if config.resume is not None:
        words = [] if isinstance(what, Config | DictConfig) else list(what)
        return resume(*resumed(config.resume, words), verbose, callbacks)
    if _is_worker_rank():  # Lightning started this process for a run whose folder is there already
        return _execute(config, RunFolder.open(Path(os.environ["GRIDLIGHT_RUN_FOLDER"])), False)
    path = folder or new_run_path(config.paths.outputs, config.model.name, config.datamodule.name)
    record = RunFolder.create(path, config.plain(), command or sys.orig_argv)
    try:
        return _execute(config, record, verbose, callbacks)
    except UserError as error:
        if record.metrics() or record.has_checkpoint("last"):  # it had begun: what it has is kept
            record.fail(error)
        else:
            record.discard()
        raise


def resume(config: Config, folder: RunFolder, verbose: bool = True, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Go on with an interrupted or failed run from its last checkpoint, in its own folder.

    Raises:
        UserError: if that cannot be; what was recorded before stays as it was, unless training had begun.
        Interrupted: after Ctrl-C.
    """
    if _is_worker_rank():
        return _execute(config, folder, False)
    logged = len(folder.metrics())
    folder.resume(config.plain())
    try:
        return _execute(config, folder, verbose, callbacks)
    except UserError as error:
        if len(folder.metrics()) == logged:
            folder.undo_resume()
        else:
            folder.fail(error)
        raise


def _is_worker_rank() -> bool:
    return os.environ.get("LOCAL_RANK", "0") != "0" and "GRIDLIGHT_RUN_FOLDER" in os.environ


def _execute(config: Config, folder: RunFolder, verbose: bool, callbacks: Sequence[Callback] = ()) -> RunResult:
    os.environ["GRIDLIGHT_RUN_FOLDER"] = str(folder.path.resolve())
    started = time.monotonic()
    records = not _is_worker_rank()
    keep_freed_memory()
    loggers: list[Logger] = []
    exit_code = 1
    log_file = folder.train_log if records else None
    with stop_request.heard(), train_log.log_to(log_file, quiet=not records), folder.written_into():
        try:
            experiment = build(config, folder, verbose=verbose, callbacks=callbacks)
            if records:  # only now: what cannot be built leaves no trace on a server
                loggers = build_loggers(config.plain()["logger"], folder, config.plain())
                experiment.trainer.loggers = loggers
            result = _train_and_test(experiment, folder, started, verbose)
            exit_code = 0
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into an exit
            if records:
                folder.interrupt()
            raise Interrupted(_how_to_go_on(config, folder)) from stop
        except UserError:
            raise
        except BaseException as error:
            if records:
                folder.fail(error)
            if isinstance(error, torch.cuda.OutOfMemoryError):
                log.error(
                    "out of GPU memory: a smaller datamodule.batch_size, trainer.precision=bf16-mixed, or for a ResNet or a "
                    "transformer model.checkpoint_activations=true needs less; callbacks=batch_size_finder says what fits"
                )
            raise
        finally:
            close_loggers(loggers, exit_code)
    if records and verbose:
        console_report.show(experiment, result, folder, loggers)
    return result


def _how_to_go_on(config: Config, folder: RunFolder) -> str:
    if config.callbacks.get("checkpoints") is None:
        return "it kept no checkpoint to go on from (callbacks.checkpoints is off)"
    return f"resume with: python -m src.train {shlex.quote(f'resume={console_report.shown(folder.path)}')}"


def _train_and_test(experiment: Experiment, folder: RunFolder, started: float, verbose: bool) -> RunResult:
    config, datamodule, model, trainer = (
        experiment.config,
        experiment.datamodule,
        experiment.model,
        experiment.trainer,
    )
    monitor, mode = monitor_of(config, datamodule.spec.task)
    if trainer.is_global_zero:
        summary = summarize(model, next(iter(datamodule.loader("train"))))
        if verbose:
            console_report.announce(config, folder, summary, datamodule)
        folder.update(monitor=monitor, mode=mode, parameters=summary.parameters, multiply_adds=summary.multiply_adds)
    last = folder.last_checkpoint if folder.has_checkpoint("last") else None
    (check,) = (callback for callback in trainer.callbacks if isinstance(callback, CheckpointCheck))  # type: ignore[attr-defined]
    with check.errors_named(trainer):
        trainer.fit(model, datamodule=datamodule, ckpt_path=last, weights_only=True if last else None)
    best = folder.best_checkpoint if folder.has_checkpoint("best") else None
    with check.errors_named(trainer):
        tested = trainer.test(
            model, datamodule=datamodule, ckpt_path=best, weights_only=True if best else None, verbose=False
        )
    rows, since = folder.metrics(), folder.record.get("best_since")
    epoch, best_metrics = best_epoch(rows, monitor, mode, since) if best else (None, last_epoch(rows))
    metrics = best_metrics | {name: float(value) for name, value in tested[0].items()}
    seconds = time.monotonic() - started
    value = metrics.get(monitor)
    if trainer.is_global_zero:
        folder.update(best_epoch=epoch, value=value, best=best_metrics)
        folder.finish({name: value for name, value in metrics.items() if name.startswith("test/")})
    return RunResult(folder.path, "finished", monitor, mode, value, metrics, seconds)
