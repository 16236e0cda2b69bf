"""Train, test and record one run."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from src.compat.lean_imports import lean

with lean():
    import lightning  # noqa: F401 - first import of Lightning, without its unused parts

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from src.config.combinations import monitor_of
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.core.process import tune_allocator
from src.core.signals import shutdown_request
from src.loggers.factory import build_loggers, close_loggers
from src.models.summary import summarize
from src.run_store import train_log
from src.run_store.best_epoch import best_epoch, last_epoch
from src.run_store.run_folder import RunFolder, new_run_path
from src.training import console_report
from src.training.checkpoint_check import CheckpointCheck
from src.training.experiment import Experiment, build
from src.training.result import RunResult
from src.training.resume import prepare_resume

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A run was interrupted; the message states how to resume it."""


def run(
    config_or_overrides: Config | DictConfig | Sequence[str],
    folder: Path | None = None,
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
    command: Sequence[str] = (),
) -> RunResult:
    """Train, test and record one run.

    Args:
        config_or_overrides: overrides (``["model=mlp", "optimizer.lr=0.01"]``), a composed config or a validated one.
        folder: the run folder to create; by default a new one under ``paths.outputs``.
        verbose: print what is trained, the progress and the results.
        callbacks: additional callbacks.
        command: the command to record; by default that of this process.

    Raises:
        UserError: if the config or the data are invalid; no run folder is left.
        Interrupted: after Ctrl-C.
    """
    overrides: list[str] = []
    if isinstance(config_or_overrides, Config):
        config = config_or_overrides
    elif isinstance(config_or_overrides, DictConfig):
        config = check(config_or_overrides)
    else:
        overrides = list(config_or_overrides)
        config = check(compose(overrides))
    if config.resume is not None:
        return resume(*prepare_resume(config.resume, overrides), verbose, callbacks)
    if _is_worker_rank():  # Lightning started this process for a run whose folder exists already
        return _execute(config, RunFolder.open(Path(os.environ["GRIDLIGHT_RUN_FOLDER"])), False)
    path = folder or new_run_path(config.paths.outputs, config.model.name, config.datamodule.name)
    record = RunFolder.create(path, config.plain(), command or sys.orig_argv)
    try:
        return _execute(config, record, verbose, callbacks)
    except UserError as error:
        if record.metrics() or record.has_checkpoint("last"):  # training had started: keep its results
            record.fail(error)
        else:
            record.discard()
        raise


def resume(config: Config, folder: RunFolder, verbose: bool = True, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Resume an interrupted or failed run from its last checkpoint, in its own folder.

    Raises:
        UserError: if the run cannot be resumed; its record does not change, unless training had started.
        Interrupted: after Ctrl-C.
    """
    if _is_worker_rank():
        return _execute(config, folder, False)
    num_rows = len(folder.metrics())
    folder.resume(config.plain())
    try:
        return _execute(config, folder, verbose, callbacks)
    except UserError as error:
        if len(folder.metrics()) == num_rows:
            folder.undo_resume()
        else:
            folder.fail(error)
        raise


def _is_worker_rank() -> bool:
    return os.environ.get("LOCAL_RANK", "0") != "0" and "GRIDLIGHT_RUN_FOLDER" in os.environ


def _execute(config: Config, folder: RunFolder, verbose: bool, callbacks: Sequence[Callback] = ()) -> RunResult:
    os.environ["GRIDLIGHT_RUN_FOLDER"] = str(folder.path.resolve())
    started = time.monotonic()
    is_main = not _is_worker_rank()
    tune_allocator()
    loggers: list[Logger] = []
    exit_code = 1
    log_file = folder.train_log if is_main else None
    with shutdown_request.installed(), train_log.log_to(log_file, quiet=not is_main), folder.keep_locked():
        try:
            experiment = build(config, folder, verbose=verbose, callbacks=callbacks)
            if is_main:  # after building: a run that cannot be built must not appear on a server
                loggers = build_loggers(config.plain()["logger"], folder, config.plain())
                experiment.trainer.loggers = loggers
            result = _train_and_test(experiment, folder, started, verbose)
            exit_code = 0
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into an exit
            if is_main:
                folder.interrupt()
            raise Interrupted(_resume_hint(config, folder)) from stop
        except UserError:
            raise
        except BaseException as error:
            if is_main:
                folder.fail(error)
            if isinstance(error, torch.cuda.OutOfMemoryError):
                log.error(
                    "out of GPU memory: use a smaller datamodule.batch_size, trainer.precision=bf16-mixed, or for a ResNet "
                    "or a transformer model.checkpoint_activations=true; callbacks=batch_size_finder prints what fits"
                )
            raise
        finally:
            close_loggers(loggers, exit_code)
    if is_main and verbose:
        console_report.print_results(experiment, result, folder, loggers)
    return result


def _resume_hint(config: Config, folder: RunFolder) -> str:
    if config.callbacks.get("checkpoints") is None:
        return "it kept no checkpoint to resume from (callbacks.checkpoints is off)"
    return f"resume with: python -m src.train {shlex.quote(f'resume={console_report.display_path(folder.path)}')}"


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
            console_report.print_header(config, folder, summary, datamodule)
        folder.update(monitor=monitor, mode=mode, parameters=summary.parameters, multiply_adds=summary.multiply_adds)
    last_checkpoint = folder.checkpoint("last") if folder.has_checkpoint("last") else None
    (checkpoint_check,) = (callback for callback in trainer.callbacks if isinstance(callback, CheckpointCheck))  # type: ignore[attr-defined]
    with checkpoint_check.wrap_restore_errors(trainer):
        trainer.fit(
            model, datamodule=datamodule, ckpt_path=last_checkpoint, weights_only=True if last_checkpoint else None
        )
    best_checkpoint = folder.checkpoint("best") if folder.has_checkpoint("best") else None
    with checkpoint_check.wrap_restore_errors(trainer):
        test_results = trainer.test(
            model,
            datamodule=datamodule,
            ckpt_path=best_checkpoint,
            weights_only=True if best_checkpoint else None,
            verbose=False,
        )
    rows = folder.metrics()
    if best_checkpoint:
        epoch, best_metrics = best_epoch(rows, monitor, mode, folder.record.get("best_since"))
    else:
        epoch, best_metrics = None, last_epoch(rows)
    metrics = best_metrics | {name: float(value) for name, value in test_results[0].items()}
    seconds = time.monotonic() - started
    value = metrics.get(monitor)
    if trainer.is_global_zero:
        folder.update(best_epoch=epoch, value=value, best=best_metrics)
        folder.finish({name: value for name, value in metrics.items() if name.startswith("test/")})
    return RunResult(folder.path, "finished", monitor, mode, value, metrics, seconds)
