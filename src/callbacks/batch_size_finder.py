"""The batch sizes that fit, tried before a run trains, beside it: a table, and the suggestion in run.json."""

import logging
from dataclasses import asdict

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.table import Table

from src.core.console import echo
from src.core.resources import shown_bytes
from src.core.tables import new_table, show
from src.diagnostics.batch_size_search import PATIENCE, SHARE, BatchSizes, find_batch_sizes
from src.models.base import Model
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


class BatchSizeFinder(Callback):
    """Trains models of its own on the run's data with growing batches, in a process of their own, and leaves the run as it
    is: it trains with its own batch size.

    Args:
        folder: the run's.
        share: of the memory that is free, what training may take.
        patience: seconds; where a step takes longer, no larger batch is tried.
    """

    def __init__(self, folder: RunFolder, share: float = SHARE, patience: float = PATIENCE) -> None:
        self.folder = folder
        self.share, self.patience = share, patience

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or "suggested_batch_size" in self.folder.record:
            return
        assert isinstance(pl_module, Model)
        found = find_batch_sizes(pl_module.training_config, self.share, self.patience)
        self.folder.update(
            suggested_batch_size=found.suggestion,
            largest_batch_size=found.largest,
            batch_sizes=[asdict(trial) for trial in found.trials],
        )
        show(table(found))
        said = advice(found)
        log.info("batch sizes: %s", said)
        echo(f"{said}\n", flush=True)


def table(found: BatchSizes) -> Table:
    """Return a row for each batch size that fits."""
    result = new_table("batch size", "examples/s", "peak memory", numbers=("batch size", "examples/s", "peak memory"))
    for trial in found.trials:
        result.add_row(f"{trial.batch_size:,}", f"{trial.rate:,.0f}", shown_bytes(trial.peak))
    return result


def advice(found: BatchSizes) -> str:
    """Say which batch is the largest, and which one is enough."""
    why = "as fast as any larger one" if found.suggestion < found.largest else "the fastest"
    return (
        f"largest batch within {shown_bytes(found.budget)}: {found.largest:,}; {found.ended}\n"
        f"suggested datamodule.batch_size={found.suggestion}, {why}. The best learning rate changes with the batch size"
    )
