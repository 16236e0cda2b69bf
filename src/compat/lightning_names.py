"""Private names of Lightning that other modules of this package use, and a check that the installed version has them.

Tested with Lightning 2.5 and 2.6.
"""

from typing import TYPE_CHECKING

import lightning as L

from src.compat.stock import STOCK, is_stock

_IMPORT_ERROR: ImportError | None = None
if TYPE_CHECKING:
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop as EvaluationLoop
    from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop
else:
    try:
        from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop as EvaluationLoop
        from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
        from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop
    except ImportError as error:
        _IMPORT_ERROR = error
        EvaluationLoop = TrainingEpochLoop = DataFetcher = object

NAMES = {
    "trainer": ("_logger_connector",),
    "trainer._logger_connector": (
        "_first_loop_iter",
        "on_batch_end",
        "update_train_step_metrics",
        "update_eval_step_metrics",
    ),
    "trainer.fit_loop": (
        "_combined_loader",
        "_combined_loader_states_to_load",
        "_data_fetcher",
        "_load_combined_loader_states",
        "restarted_mid_epoch",
    ),
    "trainer.fit_loop.epoch_loop": (
        "_batches_that_stepped",
        "_is_training_done",
        "_num_ready_batches_reached",
        "_results",
        "_should_accumulate",
        "_should_check_val_fx",
        "automatic_optimization",
        "batch_progress",
        "update_lr_schedulers",
    ),
    "trainer.fit_loop.epoch_loop.val_loop": (
        "_evaluation_step",
        "_has_run",
        "_results",
        "_seen_batches_per_dataloader",
    ),
}
"""Attributes of Lightning's objects, by their path from the trainer."""


def loop_problem(trainer: L.Trainer) -> str | None:
    """Return why the loops of Lightning cannot be replaced; None if they can. See `missing_name`."""
    return str(_IMPORT_ERROR) if _IMPORT_ERROR is not None else missing_name(trainer)


def missing_name(trainer: L.Trainer) -> str | None:
    """Return why private names of Lightning cannot be used: stock mode, or the first missing name; None if they can.

    Args:
        trainer: with Lightning's own loops.
    """
    if is_stock():
        return f"{STOCK} is set"
    for path, names in NAMES.items():
        owner = trainer
        for part in path.split(".")[1:]:
            owner = getattr(owner, part)
        for name in names:
            if not hasattr(owner, name) and not _is_annotated(owner, name):
                return f"Lightning {L.__version__} has no {path}.{name}"
    return None


def _is_annotated(owner: object, name: str) -> bool:
    return any(name in vars(cls).get("__annotations__", {}) for cls in type(owner).__mro__)
