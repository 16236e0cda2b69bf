"""The only place that ties the parts together: build(config) makes an experiment, run(…) trains and measures it."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.imports import lean

with lean():
    import lightning as L

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig

from src.batches import Batch
from src.config.check import check
from src.config.combinations import model_and_data_problems, monitor_of
from src.config.compose import compose, resumed, update
from src.config.locate import locate
from src.config.schema import Config
from src.config.trust import literal_config, name_external_data, writable_data_folder
from src.datamodules.base import DataModule
from src.datamodules.folds import Fold
from src.datamodules.preparation import take_preparation
from src.errors import UserError
from src.freed_memory import keep_freed_memory
from src.models.base import Model
from src.regularization.build import batch_transform
from src.regularization.examples import example_augmentation
from src.spec import DataSpec
from src.steps import TrainingSteps
from src.tasks.catalogue import TASKS, check_task
from src.tasks.sequences import Translation
from src.tracking import closing
from src.tracking.best import best_epoch, last_epoch
from src.tracking.callbacks import build_callbacks
from src.tracking.checkpoint_schema import RestoringConnector
from src.tracking.checkpoints import AtomicCheckpointIO
from src.tracking.load_checkpoint import load_checkpoint, no_larger_than
from src.tracking.run_folder import RunFolder, new_run_path
from src.tracking.run_logger import build_loggers, close_loggers
from src.tracking.stopping import stop_request
from src.tracking.summary import summarize

log = logging.getLogger(__name__)


class NoProfiler(PassThroughProfiler):
    """Measures nothing at no cost: Lightning asks its profiler some forty times a step, and its own makes a generator
    each time.
    """

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._nothing


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; the message says how to go on."""


@dataclass(frozen=True)
class Experiment:
    """Everything of one run, ready to train."""

    config: Config
    datamodule: DataModule
    model: Model
    trainer: L.Trainer


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


def build_data(config: Config) -> DataModule:
    """Make the datamodule and load what it needs."""
    datamodule = locate(config.datamodule.target or "", DataModule, "datamodule._target_")(  # type: ignore[type-abstract]
        **config.datamodule.arguments()
    )
    datamodule.data_dir, datamodule.write_dir = config.paths.data, writable_data_folder(config.paths.data)
    asked = config.cross_validation
    if asked.folds is not None and asked.fold is not None:
        datamodule.fold = Fold(asked.fold, asked.folds, asked.seed, asked.group)
    return datamodule


def build_model(config: Config, spec: Any) -> Model:
    """Make the model for the data.

    Raises:
        UserError: if the model cannot serve the data, where that could not be known before they were loaded.
    """
    if problems := list(model_and_data_problems(config, spec.task, spec.inputs)):
        raise UserError("\n".join(problems))
    model = locate(config.model.target or "", Model, "model._target_")(spec=spec, **config.model.arguments())
    model.training_config = config
    model.batch_transform = batch_transform(config, spec)
    return model


def prepared_data(config: Config) -> DataModule:
    """Make the datamodule of a training run, and load its data."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build_data(config)
    datamodule.augmentation = example_augmentation(config.regularization, datamodule.raw, Translator)
    datamodule.prepare_data()
    datamodule.setup()
    datamodule.say_where()
    return datamodule


def seeded_model(config: Config, datamodule: DataModule) -> Model:
    """Make the model of a training run; the same weights, however the data were made."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, datamodule.spec)
    _tell_texts(model, datamodule)
    return model


def build(
    config: Config,
    folder: RunFolder | None = None,
    loggers: Sequence[Logger] = (),
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Experiment:
    """Make the datamodule, the model and the trainer of a run.

    Args:
        config: a checked config.
        folder: where checkpoints go; None keeps none.
        loggers: of the run.
        verbose: show the progress.
        callbacks: beside those of the config.
    """
    datamodule = prepared_data(config)
    model = seeded_model(config, datamodule)
    own = build_callbacks(config, folder, datamodule.task, verbose) if folder else []
    trainer = build_trainer(config, [*own, *callbacks], loggers)
    if trainer.global_rank > 0:  # dropout, mixing and augmentation differ from device to device
        L.seed_everything((config.seed + 1_000_003 * trainer.global_rank) % 2**32, workers=True, verbose=False)
    return Experiment(config, datamodule, model, trainer)


def _tell_texts(model: Model, datamodule: DataModule) -> None:
    """Let the task read the data's tokens as texts, for BLEU."""
    if isinstance(model.task, Translation):
        model.task.texts = datamodule.texts


def build_trainer(config: Config, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()) -> L.Trainer:
    """Make Lightning's trainer."""
    settings = config.trainer.model_dump(exclude={"name", "profiler", "loop"})
    clip_norm, clip_value = config.regularization.gradient_clip_norm, config.regularization.gradient_clip_value
    clip = clip_norm if clip_norm is not None else clip_value
    if not (config.trainer.deterministic or torch.are_deterministic_algorithms_enabled()):
        settings["deterministic"] = None  # to say no to torch would load its compiler
    try:
        trainer = L.Trainer(
            **settings,
            profiler=config.trainer.profiler or NoProfiler(),
            gradient_clip_val=clip,
            gradient_clip_algorithm=None if clip is None else "norm" if clip_norm is not None else "value",
            callbacks=list(callbacks),
            logger=list(loggers),
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (L.pytorch.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {error}") from error
    trainer._checkpoint_connector = RestoringConnector(trainer)
    trainer.fit_loop.epoch_loop = TrainingSteps(trainer, config.trainer.max_steps, Model, config.trainer.loop == "auto")
    return trainer


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
    with stop_request.heard(), closing.log_to(log_file, quiet=not records), folder.written_into():
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
        closing.show(experiment, result, folder, loggers)
    return result


def _how_to_go_on(config: Config, folder: RunFolder) -> str:
    if config.callbacks.get("checkpoints") is None:
        return "it kept no checkpoint to go on from (callbacks.checkpoints is off)"
    return f"resume with: python -m src.train {shlex.quote(f'resume={closing.shown(folder.path)}')}"


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
            closing.announce(config, folder, summary, datamodule)
        folder.update(monitor=monitor, mode=mode, parameters=summary.parameters, multiply_adds=summary.multiply_adds)
    last = folder.last_checkpoint if folder.has_checkpoint("last") else None
    trainer.fit(model, datamodule=datamodule, ckpt_path=last, weights_only=True if last else None)
    best = folder.best_checkpoint if folder.has_checkpoint("best") else None
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


# ---- from a run folder or checkpoint back to a model ------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A trained model with the data preparation that it was trained with."""

    config: Config
    datamodule: DataModule
    model: Model
    checkpoint: Path


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Rebuild a trained model from its checkpoint alone.

    Args:
        path: a run folder (its best weights are taken) or a checkpoint.
        overrides: keys of the recorded config to change, such as ``datamodule.path=other.txt``.

    Raises:
        UserError: if there is no such run, or if the file is no checkpoint of Gridlight.
    """
    file = path
    if path.is_dir():
        folder = RunFolder.open(path)
        file = folder.best_checkpoint if folder.has_checkpoint("best") else folder.last_checkpoint
    checkpoint = load_checkpoint(file)
    recorded = checkpoint["gridlight"]
    literal = literal_config(recorded["config"], file, for_training=False)
    config = check(update(literal, overrides), for_training=False)
    name_external_data(config)
    datamodule = build_data(config)
    take_preparation(datamodule, recorded["preparation"], file)
    spec, state = DataSpec.from_plain(recorded["spec"]), checkpoint["state_dict"]
    check_task(spec.task)
    arguments = config.model.arguments()
    with no_larger_than(state, arguments, file):
        model = locate(config.model.target or "", Model, "model._target_")(spec=spec, **arguments)
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    model.to(max(dtypes, key=lambda dtype: dtype.itemsize, default=model.dtype))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{file}: the weights do not fit the model that the config describes: {error}") from error
    model.training_config = config
    _tell_texts(model, datamodule)
    model.eval()
    return Loaded(config, datamodule, model, file)


def measure(loaded: Loaded, split: str) -> dict[str, float]:
    """Return the metrics of a trained model on one split of its data."""
    loaded.datamodule.prepare_data()
    loaded.datamodule.setup()
    loaded.model.measured_split = split
    with closing.log_to(None):
        here = {"accelerator": "auto", "devices": 1, "strategy": "auto", "profiler": None, "detect_anomaly": False}
        limit = getattr(loaded.config.trainer, f"limit_{split}_batches")
        if limit is not None:
            log.warning(f"measured as in training, on a part of the split: trainer.limit_{split}_batches={limit}")
        settings = loaded.config.trainer.model_copy(update=here | {"limit_test_batches": limit})
        trainer = build_trainer(loaded.config.model_copy(update={"trainer": settings}))
        loader = loaded.datamodule.loader(split)
        tested = trainer.test(loaded.model, dataloaders=loader, verbose=False)
    return {name: float(value) for name, value in tested[0].items()}


Draw = Callable[[Loaded, Batch, torch.Tensor], Sequence[Sequence[Path]]]


@torch.no_grad()
def answer(loaded: Loaded, batch: Batch, draw: Draw | None = None, **generation: Any) -> list[dict[str, Any]]:
    """Return the model's answers to a batch, in the data's own units and words.

    Args:
        loaded: the model with its data preparation.
        batch: what `encode` made of a person's inputs.
        draw: draws the attention behind each answer, from the batch and the model's outputs; the answer then names the files.
        generation: arguments of the model's `generate`.
    """
    model, datamodule = loaded.model, loaded.datamodule
    generates = TASKS[model.spec.task].generates
    inputs = [tensor.to(model.dtype) if tensor.is_floating_point() else tensor for tensor in batch.inputs]
    outputs = model.generate(inputs[0], **generation) if generates else model(*inputs)
    answers = datamodule.answers(model.task.answers(outputs))
    if draw is not None:
        for found, paths in zip(answers, draw(loaded, batch, outputs), strict=True):
            found["attention"] = [str(path) for path in paths]
    return answers


class Translator:
    """A trained translation model, as back-translation uses it.

    Args:
        path: a run or a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = load(path)
        self.checkpoint = self._loaded.checkpoint
        self.task = self._loaded.model.spec.task

    def encode(self, texts: Sequence[str]) -> Batch:
        """Return texts as a batch."""
        return self._loaded.datamodule.encode(texts)

    def translate(self, batch: Batch) -> list[str]:
        """Return the likeliest translation of each text."""
        return [str(given["prediction"]) for given in answer(self._loaded, batch, temperature=0.0)]


def continuation(loaded: Loaded, batch: Batch, **generation: Any) -> Iterator[str]:
    """Yield a language model's continuation of a prompt piece by piece, as it is generated."""
    tokens: list[int] = []
    shown = ""
    text = ""
    for chosen in loaded.model.generate_stream(batch.inputs[0], **generation):
        tokens.append(int(chosen))
        text = loaded.datamodule.answers([{"tokens": tokens}])[0]["prediction"]
        if not text.endswith("\ufffd"):  # it may be the first bytes of a character whose others are still to come
            yield text[len(shown) :]
            shown = text
    yield text[len(shown) :]
