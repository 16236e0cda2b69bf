"""Public Python interface of Gridlight; every other module is internal.

    from src import api

    result = api.run(["model=mlp", "optimizer.lr=0.01"])
    print(result.metrics["test/accuracy"], api.predict(result.folder, ["0.5,-0.25"]))

Overrides are texts such as ``optimizer.lr=0.01``, as on the command line: a sequence of them, or one text that is split like a
command line. Paths are `str` or `pathlib.Path`. Invalid input raises `UserError` with the same message as the command line.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import ROOT
from src.core.errors import JobsFailed, UserError

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from src.comparison.view import View
    from src.training.inference import LoadedModel
    from src.training.result import RunResult

__all__ = ["JobsFailed", "UserError", "compare", "evaluate", "load", "predict", "resume", "run", "sweep"]

Overrides = str | Sequence[str]
PathLike = str | os.PathLike[str]


def run(
    overrides: Overrides = (),
    folder: PathLike | None = None,
    verbose: bool = True,
    callbacks: Sequence["Callback"] = (),
) -> "RunResult":
    """Train, test and record one run.

    Args:
        overrides: overrides of the config, such as ``["model=mlp", "optimizer.lr=0.01"]``.
        folder: run folder to create; by default a new one below ``paths.outputs``.
        verbose: print the model, the progress and the results.
        callbacks: Lightning callbacks in addition to those of the config.

    Returns:
        The run folder, the status and the metrics.

    Raises:
        UserError: if the config or the data are invalid; no run folder remains.
    """
    from src.training import run as training_run

    path = None if folder is None else _path(folder, "folder")
    return training_run.run(_overrides(overrides), path, verbose, callbacks)


def resume(path: PathLike, overrides: Overrides = (), verbose: bool = True) -> "RunResult":
    """Continue an interrupted or failed run from its last checkpoint, in its own folder.

    Args:
        path: run folder.
        overrides: keys to change, such as ``trainer.max_epochs=40``.
        verbose: see `run`.

    Raises:
        UserError: if the run cannot be resumed, or if a key may not change.
    """
    from src.training import run as training_run
    from src.training.resume import prepare_resume

    config, folder = prepare_resume(str(_path(path, "path")), _overrides(overrides))
    return training_run.resume(config, folder, verbose)


def load(path: PathLike, overrides: Overrides = ()) -> "LoadedModel":
    """Rebuild a trained model and its data preparation from a checkpoint.

    Args:
        path: run folder (its best weights are loaded) or checkpoint.
        overrides: keys of the recorded config to change, such as ``datamodule.path=other.txt``.

    Returns:
        The model, a LightningModule in evaluation mode, with its config and its datamodule.

    Raises:
        UserError: if there is no such run, or if the file is no checkpoint of Gridlight.
    """
    from src.training import inference

    return inference.load(_path(path, "path"), _overrides(overrides))


def predict(model: "PathLike | LoadedModel", inputs: Any, **generation: Any) -> list[dict[str, Any]]:
    """Return the predictions of a trained model.

    Args:
        model: run folder, checkpoint, or the result of `load`.
        inputs: raw inputs as for ``python -m src.predict`` (a text, a path, or a sequence of them), or numbers: an array or
            nested lists [N, F] of N examples with F columns, or [F] of one example.
        generation: ``length``, ``temperature``, ``top_k``, ``top_p``, ``seed``, ``beams`` and ``length_penalty``, for models that
            generate sequences.

    Returns:
        One dictionary for each example, with ``prediction`` and, for classes, ``probabilities``.

    Raises:
        UserError: if there is no such run, or if an input is invalid.
    """
    from src.cli.predict import predict_loaded

    loaded = load(model) if isinstance(model, str | os.PathLike) else model
    if not hasattr(loaded, "datamodule"):
        raise UserError(f"predict: expected a run folder, a checkpoint or a loaded model, not {type(model).__name__}")
    return predict_loaded(loaded, _inputs(inputs), **generation)


def evaluate(path: PathLike, split: str = "test", overrides: Overrides = ()) -> dict[str, float]:
    """Return the metrics of a trained model on one split of its data.

    Args:
        path: run folder or checkpoint.
        split: ``train``, ``val`` or ``test``.
        overrides: keys of the recorded config to change; with ``datamodule.path=other.txt`` that file is
            evaluated as a whole.

    Raises:
        UserError: if there is no such run, split or key.
    """
    from src import evaluate as verb

    return verb.evaluate(_path(path, "path"), split, _overrides(overrides))


def compare(*folders: PathLike, metric: str | None = None, sort: str | None = None, filter: str = "") -> "list[View]":
    """Rank the runs of some folders.

    Args:
        folders: sweeps, runs, or folders that contain some.
        metric: metric to rank by, such as ``val/accuracy``; by default the one that each run monitors.
        sort: column, metric or key to sort by, with ``:asc`` or ``:desc``.
        filter: conditions such as ``optimizer.name=adam val/loss<0.3``.

    Returns:
        One view for each metric and data set: its ``rows`` are configs, best first, with seeds and folds as repetitions.

    Raises:
        UserError: if there are no runs, or no such metric or key.
    """
    from src.comparison.filters import matching_runs, parse_filters
    from src.comparison.view import views
    from src.run_store.reader import read_runs

    if not folders:
        raise UserError("compare: expected at least one folder, such as compare('outputs/sweeps/lr')")
    runs = read_runs(*(_path(folder, "folder") for folder in folders))
    if filter:
        runs = matching_runs(runs, parse_filters(filter, runs))
    return views(runs, metric, sort)


def sweep(overrides: Overrides, name: str) -> "list[View]":
    """Run a sweep in a subprocess, or continue it, and return its ranked runs.

    Args:
        overrides: overrides with ranges, such as ``["model=mlp,cnn", "optimizer.lr=1e-3,1e-2"]``.
        name: name of the sweep, whose folder is ``<paths.outputs>/sweeps/<name>``.

    Raises:
        UserError: if any job is invalid; no job is started. The message is printed to standard error.
        JobsFailed: if a job failed; the others are finished first.
    """
    texts = _overrides(overrides)
    command = [sys.executable, "-m", "src.train", "-m", *texts, f"sweep.name={name}"]
    folders = [ROOT.as_posix(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    process = subprocess.run(command, env=environment, check=False)
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode == 1:
        raise JobsFailed(f"{shlex.join(command[1:])}: some jobs failed; the errors are in the run folders")
    if process.returncode:
        raise UserError(f"{shlex.join(command[1:])}: ended with exit code {process.returncode}")
    outputs = [text.partition("=")[2] for text in texts if text.startswith("paths.outputs=")]
    return compare(Path(outputs[-1] if outputs else "outputs") / "sweeps" / name)


def _path(value: object, argument: str) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{argument}: expected a path as str or pathlib.Path, not {type(value).__name__}")
    return Path(value)


def _overrides(overrides: object) -> list[str]:
    if isinstance(overrides, str):
        try:
            return shlex.split(overrides)
        except ValueError as error:
            raise UserError(f"overrides {overrides!r}: {error}") from error
    if not isinstance(overrides, Iterable) or isinstance(overrides, bytes | dict):
        raise UserError(
            f"overrides: expected texts such as ['model=mlp', 'optimizer.lr=0.01'], not {type(overrides).__name__}"
        )
    texts = list(overrides)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"overrides: expected texts such as 'optimizer.lr=0.01', not {text!r:.80}")
    return texts


def _inputs(inputs: Any) -> list[str]:
    """Return inputs as arguments of a command line; numbers become rows such as ``0.5,-0.25``."""
    if isinstance(inputs, str | os.PathLike):
        return [os.fspath(inputs)]
    values = inputs.tolist() if hasattr(inputs, "tolist") else inputs
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"inputs: expected texts, paths, or numbers [N, F], not {type(inputs).__name__}")
    if all(isinstance(value, str | os.PathLike) for value in values):
        return [os.fspath(value) for value in values]
    rows = [values] if all(_is_number(value) for value in values) else values
    if not all(isinstance(row, list | tuple) and row and all(map(_is_number, row)) for row in rows):
        raise UserError("inputs: expected texts, paths, or numbers [N, F]; pass images and sounds as paths of files")
    return [",".join(repr(number) for number in row) for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
