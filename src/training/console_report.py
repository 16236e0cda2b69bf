"""Console report of a run: the header, the final table, and advice."""

import shlex
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.text import Text

from src.config.schema.run import Config
from src.config.trust import trust_flag
from src.core.console import display_path, echo
from src.core.data_spec import SPLITS
from src.core.escape import terminal
from src.core.tables import new_table
from src.core.tables import show as show_table
from src.loggers.factory import sync_hint
from src.models.summary import Summary
from src.run_store.run_folder import RunFolder
from src.training.experiment import Experiment
from src.training.result import RunResult


def print_header(config: Config, folder: RunFolder, summary: Summary, datamodule: Any) -> None:
    """Print what is trained: model, data, optimizer and the model summary."""
    sizes = " / ".join(f"{len(datamodule.split(name)[0]):,}" for name in SPLITS)
    _print_bold_start(
        config.model.name,
        f" on {config.datamodule.name} ({datamodule.spec.task}; {sizes} examples), {config.optimizer.name}, "
        f"scheduler {config.scheduler.name}, seed {config.seed}",
    )
    show_table(summary.table())
    echo(f"run folder: {display_path(folder.path)}\n")


def _print_bold_start(first: str, rest: str) -> None:
    text = Text.assemble((terminal(first), "bold"), terminal(rest))
    Console(highlight=False, emoji=False, markup=False).print(text, soft_wrap=True)


def print_results(experiment: Experiment, result: RunResult, folder: RunFolder, loggers: Sequence[Logger]) -> None:
    """Print the final metrics beside the naive baseline, and advice on what to do next."""
    if not experiment.trainer.is_global_zero:
        return
    baseline = experiment.datamodule.baseline()
    headings = ("metric", *SPLITS, "naive baseline")
    table = new_table(*headings, numbers=headings[1:])
    table.box = None
    names = dict.fromkeys(key.partition("/")[2] for key in result.metrics if "/" in key)
    for name in names:
        cells = [result.metrics.get(f"{split}/{name}") for split in SPLITS]
        table.add_row(name, *map(_format_number, [*cells, baseline.get(f"test/{name}")]))
    epoch = folder.record.get("best_epoch")
    epochs = experiment.trainer.current_epoch
    if epoch is not None:
        shown_epoch = f"best epoch {epoch + 1} of {epochs} by {result.monitor}"
    else:
        shown_epoch = f"epoch {epochs}, the last, as there is no best checkpoint"
    _print_bold_start("\nfinished", f" in {result.seconds:.1f} s, {shown_epoch}")
    Console(highlight=False, emoji=False, markup=False).print(table)
    echo(f"\n{advice(experiment, folder, result)}")
    path = display_path(folder.path)
    lines = [f"recorded in {path}"]
    if folder.has_checkpoint("last"):
        lines.append(f"  python -m src.evaluate {shlex.quote(path)} split=val{trust_flag(experiment.config.plain())}")
    if hint := sync_hint(list(loggers)):
        lines.append(f"  {hint}")
    echo("\n".join(lines))


def advice(experiment: Experiment, folder: RunFolder, result: RunResult) -> str:
    """Return one sentence of advice on how to improve the result, from how the run ended."""
    knobs = experiment.config.regularization
    epochs = experiment.trainer.current_epoch
    best = folder.record.get("best_epoch")
    train, val = result.metrics.get("train/loss"), result.metrics.get("val/loss")
    if best is not None and best + 1 >= 0.9 * epochs and epochs == experiment.trainer.max_epochs:
        return f"The metric was still improving at the last epoch: try trainer.max_epochs={2 * epochs}."
    if train is not None and val is not None and val > 1.5 * train and not (knobs.dropout and knobs.weight_decay):
        return "The training loss is far below the validation loss: try regularization=[dropout,l2]."
    return "To improve the result, tune the learning rate first: -m optimizer.lr=3e-4,1e-3,3e-3."


def _format_number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
