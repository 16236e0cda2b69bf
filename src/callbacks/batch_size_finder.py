"""Batch-size search before training: print a table of the batch sizes that fit, and record the suggestion in run.json."""

import logging
from dataclasses import asdict

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.table import Table

from src.core.console import echo
from src.core.resources import format_bytes
from src.core.tables import new_table, show
from src.diagnostics.batch_size_search import PATIENCE, SHARE, BatchSizes, find_batch_sizes
from src.models.base import Model
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


class BatchSizeFinder(Callback):
    """Search the batch sizes that fit into memory, with separate models in a separate process. The run itself does not
    change: it trains with its configured batch size.

    Args:
        folder: the run folder.
        share: share of the free memory that training may use.
        patience: seconds; if a step takes longer, no larger batch is tried.
    """

    def __init__(self, folder: RunFolder, share: float = SHARE, patience: float = PATIENCE) -> None:
        self.folder = folder
        self.share, self.patience = share, patience

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or "suggested_batch_size" in self.folder.record:
            return
        assert isinstance(pl_module, Model)
        result = find_batch_sizes(pl_module.training_config, self.share, self.patience)
        self.folder.update(
            suggested_batch_size=result.suggestion,
            largest_batch_size=result.largest,
            batch_sizes=[asdict(trial) for trial in result.trials],
        )
        show(results_table(result))
        text = summary(result)
        log.info("batch sizes: %s", text)
        echo(f"{text}\n", flush=True)


def results_table(result: BatchSizes) -> Table:
    """Return a table with a row for each batch size that fits."""
    table = new_table("batch size", "examples/s", "peak memory", numbers=("batch size", "examples/s", "peak memory"))
    for trial in result.trials:
        table.add_row(f"{trial.batch_size:,}", f"{trial.rate:,.0f}", format_bytes(trial.peak))
    return table


def summary(result: BatchSizes) -> str:
    """Return the largest and the suggested batch size as text."""
    reason = "as fast as any larger one" if result.suggestion < result.largest else "the fastest"
    return (
        f"largest batch within {format_bytes(result.budget)}: {result.largest:,}; {result.stop_reason}\n"
        f"suggested datamodule.batch_size={result.suggestion}, {reason}. The best learning rate changes with the batch size"
    )
