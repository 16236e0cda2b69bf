"""Logger for Weights & Biases: online if a key is configured, and offline otherwise.

A prompt, an unreachable server or an error inside wandb never stops a run. The environment of the process is not changed,
whereas Lightning's offline option sets WANDB_MODE for all later runs. Only `start` imports wandb.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import wraps
from math import isfinite
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar, cast

from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger

from src.config.wandb_account import user_account
from src.core.console import display_path
from src.core.errors import first_line
from src.core.escape import line
from src.core.files import open_below, replace_below
from src.loggers.wandb.connection import failed_servers
from src.loggers.wandb.pending import mark_sent, pending_upload
from src.run_store.atomic_write import flush_writes
from src.run_store.best_epoch import best_epoch
from src.run_store.predictions import PREDICTIONS, load_predictions, read_example_images
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)
_SUMMARIZED = ("command", "monitor", "mode", "parameters", "multiply_adds", "seconds", "best_since")
"""Entries of the record that are copied to the summary, for `src.loggers.wandb.reader`."""
F = TypeVar("F", bound=Callable[..., Any])


def _guarded(method: F) -> F:
    """Turn errors of a method of the logger into a warning, which is logged once per method."""

    @wraps(method)
    def wrapper(self: "WeightsAndBiases", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.warn_once(method.__name__.strip("_"), error)
            return None

    return cast(F, wrapper)


class WeightsAndBiases(WandbLogger):
    """Lightning's logger around a W&B run that `start` opened.

    Args:
        run: the W&B run.
        folder: the run folder.
        mode: ``online`` or ``offline``.
        log_model: upload checkpoints as artifacts: True at the end, ``all`` at every save.
        complete: nothing of earlier sessions of the run is missing in W&B's files.
    """

    def __init__(self, run: Any, folder: RunFolder, mode: str, log_model: Any = False, complete: bool = True) -> None:
        # Lightning's `offline` is False, because True sets WANDB_MODE.
        super().__init__(
            experiment=run,
            project=run.settings.project,
            save_dir=str(folder.path),
        )
        self.mode = mode
        self._upload_checkpoints = log_model
        self._folder = folder
        self._host = str(run.settings.base_url)
        self._warned: set[str] = set()
        self._best: float | None = None
        self._complete = complete
        self._session = Path(run.settings.sync_file)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    @_guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics against ``trainer/global_step``, and update the best value so far in the summary."""
        super().log_metrics(metrics, step)
        record = self._folder.record
        value = metrics.get(record.get("monitor") or "")
        if value is None or not isfinite(value):
            return
        sign = -1 if record.get("mode") == "max" else 1
        restarts = metrics.get("epoch") == record.get("best_since", -1)  # earlier epochs no longer count
        if restarts or self._best is None or sign * value < sign * self._best:
            self._best = value
            self.experiment.summary.update({f"best/{record['monitor']}": value, "best_epoch": metrics.get("epoch")})  # type: ignore[union-attr]

    log_table = _guarded(WandbLogger.log_table)
    log_text = _guarded(WandbLogger.log_text)
    log_image = _guarded(WandbLogger.log_image)
    log_audio = _guarded(WandbLogger.log_audio)
    log_video = _guarded(WandbLogger.log_video)
    watch = _guarded(WandbLogger.watch)
    finalize = _guarded(WandbLogger.finalize)

    @_guarded
    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Upload the checkpoints at every save, if ``log_model`` is ``all``."""
        if self._upload_checkpoints == "all":
            self.log_checkpoints()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Do nothing, because the W&B run was opened with the full config."""

    @_guarded
    def log_predictions(self) -> None:
        """Log the predictions on the test split (`src.callbacks.predictions`): the examples as the table ``test/examples``, the
        confusion matrix as the chart ``test/confusion``, and the file itself.
        """
        import wandb

        flush_writes()
        predictions = load_predictions(self._folder.path)
        if predictions is None:
            return
        media: dict[str, Any] = {}
        images = read_example_images(self._folder.path, len(predictions["examples"]))
        if examples := predictions["examples"]:
            columns: list[str | int] = [
                key for key in ("input", "target", "prediction", "probability") if key in examples[0]
            ]
            rows = [
                [example[key] if key == "probability" else _text(example[key]) for key in columns]
                for example in examples
            ]
            if images:
                columns = ["image", *columns]
                rows = [[wandb.Image(image), *row] for image, row in zip(images, rows, strict=True)]
            media["test/examples"] = wandb.Table(columns=columns, data=rows)
        if (counts := predictions["confusion"]) is not None:
            names = predictions["classes"]
            cells = [[names[i], names[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
            media["test/confusion"] = wandb.plot_table(
                "wandb/confusion_matrix/v1",
                wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=cells),
                {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
                {"title": "test/confusion"},
            )
        if media:
            self.experiment.log(media)  # type: ignore[union-attr]
        run: Any = self.experiment
        files = Path(run.dir)
        # The client would link to a file outside of its own folder, and follow the link when it uploads, so it gets a copy.
        with open_below(self._folder.path, PREDICTIONS) as source, replace_below(files, PREDICTIONS) as copy:
            shutil.copyfileobj(source, copy)
        run.save(str(files / PREDICTIONS), str(files), "now")

    @_guarded
    def log_checkpoints(self) -> None:
        """Upload the checkpoints of the run folder as Lightning does, if ``log_model`` is set."""
        if not self._upload_checkpoints:
            return
        import wandb

        flush_writes()
        run: Any = self.experiment
        for name in ("last", "best"):
            if self._folder.has_checkpoint(name):
                file = self._folder.checkpoints / f"{name}.ckpt"
                artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"original_filename": file.name})
                name_in_folder = file.relative_to(self._folder.path)
                with (
                    open_below(self._folder.path, name_in_folder) as source,
                    artifact.new_file("model.ckpt", "wb") as copy,
                ):
                    shutil.copyfileobj(source, copy)
                run.log_artifact(artifact, aliases=["latest", "best"] if name == "best" else ["latest"])

    def close(self, exit_code: int) -> None:
        """Upload the checkpoints of a successful run, write the best values to the summary, finish the W&B run with an exit
        code, and record whether it is complete.
        """
        if exit_code == 0:
            self.log_checkpoints()
        self._summarize()
        try:
            self.experiment.finish(exit_code=exit_code)  # type: ignore[union-attr]
            if self.mode == "online":
                mark_sent(self._session)
        except Exception as error:
            failed_servers.add(self._host)
            self.warn_once("finish", error)
        self._folder.update(wandb={**self._folder.record["wandb"], "complete": self._complete and not self._warned})

    @_guarded
    def _summarize(self) -> None:
        record = self._folder.record
        epoch, best = record.get("best_epoch"), record.get("best") or {}
        if not best and record.get("monitor"):  # the run was stopped, or failed
            since = record.get("best_since")
            epoch, best = best_epoch(self._folder.metrics(), record["monitor"], record["mode"], since)
        values = {f"best/{name}": value for name, value in best.items()}
        values |= {"best_epoch": epoch} if epoch is not None else {}
        values |= {key: record[key] for key in _SUMMARIZED if record.get(key) is not None}
        values["status"] = "interrupted" if record["status"] == "running" else record["status"]
        if record.get("error"):
            values["error"] = record["error"].strip().rpartition("\n")[2]
        self.experiment.summary.update(values)  # type: ignore[union-attr]

    def warn_once(self, operation: str, error: Exception) -> None:
        if operation not in self._warned:
            self._warned.add(operation)
            log.warning("Weights & Biases: %s failed, and the run continues: %s", operation, first_line(error))

    def sync_hint(self) -> str | None:
        """Return the command that uploads the run; None if it is completely uploaded."""
        if not pending_upload(self._folder.path):
            return None
        account, settings = user_account(), self.experiment.settings  # type: ignore[union-attr]
        variables = {
            "WANDB_ENTITY": settings.entity if account.refusal(entity=settings.entity) else None,
            "WANDB_PROJECT": settings.project if account.refusal(project=settings.project) else None,
        }
        assignments = [f"{variable}={quote(line(value))}" for variable, value in variables.items() if value]
        return " ".join([*assignments, "python -m src.sync", quote(display_path(self._folder.path))])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
