"""What a person reads: the opening lines of a run, its final table, and what to do next."""

import logging
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.text import Text

from src.config.schema import Config
from src.core.console import LogFormatter, echo
from src.core.escape import terminal
from src.core.files import append_below
from src.spec import SPLITS
from src.tracking.console import new_table, shown
from src.tracking.console import show as show_table
from src.tracking.run_folder import RunFolder
from src.tracking.run_logger import sync_hint
from src.tracking.summary import Summary

if TYPE_CHECKING:
    from src.experiment import Experiment, RunResult


class _RunLogHandler(logging.FileHandler):
    """Appends to the log of a run; a link in its place is not followed."""

    def _open(self) -> Any:
        file = Path(self.baseFilename)
        return TextIOWrapper(append_below(file.parent, file.name), encoding="utf-8", errors="backslashreplace")


@contextmanager
def log_to(file: Path | None, quiet: bool = False) -> Iterator[None]:
    """Send the log of everything below to a file, if one is given, and warnings to the terminal too."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(_RunLogHandler(file, encoding="utf-8", delay=True))
        handlers[-1].setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if not quiet:
        handlers.append(logging.StreamHandler())
        handlers[-1].setLevel(logging.WARNING)
        handlers[-1].setFormatter(LogFormatter("%(levelname)s: %(message)s"))
    lightning_logs = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [(logger, logger.handlers, logger.propagate) for logger in lightning_logs]
    for logger in lightning_logs:  # its lines go to the file with all others, and not to the terminal
        logger.handlers, logger.propagate = [], True
    level = root.level
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for handler in handlers:
        root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            _quiet_known_warnings()
            yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        for logger, kept, propagate in before:
            logger.handlers, logger.propagate = kept, propagate
        logging.captureWarnings(False)


def _quiet_known_warnings() -> None:
    """Lightning advises what does not apply: its loaders' workers, its logging interval, a folder that we made, srun
    on a machine of a cluster.
    """
    for text in (
        "does not have many workers",
        "log_every_n_steps",
        "Checkpoint directory.*exists",
        "LeafSpec",
        "sync_dist=True",
        "`srun` command is available",
    ):
        warnings.filterwarnings("ignore", message=f".*{text}")
    warnings.filterwarnings("ignore", message=".*TF32 acceleration on top of oneDNN")  # torch's, when oneDNN is asked


def announce(config: Config, folder: RunFolder, summary: Summary, datamodule: Any) -> None:
    """Print what is about to be trained."""
    sizes = " / ".join(f"{len(datamodule.split(name)[0]):,}" for name in SPLITS)
    _print_beginning_bold(
        config.model.name,
        f" on {config.datamodule.name} ({datamodule.spec.task}; {sizes} examples), {config.optimizer.name}, "
        f"scheduler {config.scheduler.name}, seed {config.seed}",
    )
    show_table(summary.table())
    echo(f"run folder: {shown(folder.path)}\n")


def _print_beginning_bold(first: str, rest: str) -> None:
    text = Text.assemble((terminal(first), "bold"), terminal(rest))
    Console(highlight=False, emoji=False, markup=False).print(text, soft_wrap=True)


def show(experiment: "Experiment", result: "RunResult", folder: RunFolder, loggers: Sequence[Logger]) -> None:
    """Print the final metrics beside a trivial answer, and what to do next."""
    if not experiment.trainer.is_global_zero:
        return
    baseline = experiment.datamodule.baseline()
    headings = ("metric", *SPLITS, "trivial answer")
    table = new_table(*headings, numbers=headings[1:])
    table.box = None
    names = dict.fromkeys(key.partition("/")[2] for key in result.metrics if "/" in key)
    for name in names:
        cells = [result.metrics.get(f"{split}/{name}") for split in SPLITS]
        table.add_row(name, *map(_number, [*cells, baseline.get(f"test/{name}")]))
    epoch = folder.record.get("best_epoch")
    epochs = experiment.trainer.current_epoch
    shown_epoch = (
        f"best epoch {epoch + 1} of {epochs} by {result.monitor}"
        if epoch is not None
        else f"epoch {epochs}, the last, as there is no best checkpoint"
    )
    _print_beginning_bold("\nfinished", f" in {result.seconds:.1f} s, {shown_epoch}")
    Console(highlight=False, emoji=False, markup=False).print(table)
    echo(f"\n{advice(experiment, folder, result)}")
    path = shown(folder.path)
    lines = [f"recorded in {path}"]
    if folder.has_checkpoint("last"):
        lines.append(f"  python -m src.evaluate {shlex.quote(path)} split=val")
    if hint := sync_hint(list(loggers)):
        lines.append(f"  {hint}")
    echo("\n".join(lines))


def advice(experiment: "Experiment", folder: RunFolder, result: "RunResult") -> str:
    """Say in one sentence what would most likely do better, from how the run ended."""
    knobs = experiment.config.regularization
    epochs = experiment.trainer.current_epoch
    best = folder.record.get("best_epoch")
    train, val = result.metrics.get("train/loss"), result.metrics.get("val/loss")
    if best is not None and best + 1 >= 0.9 * epochs and epochs == experiment.trainer.max_epochs:
        return f"Still getting better when the epochs ended: trainer.max_epochs={2 * epochs} would go further."
    if train is not None and val is not None and val > 1.5 * train and not (knobs.dropout and knobs.weight_decay):
        return "Training loss is far below validation loss: try regularization=[dropout,l2]."
    return "To do better, vary the learning rate first: -m optimizer.lr=3e-4,1e-3,3e-3."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
