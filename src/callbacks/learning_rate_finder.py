"""Learning-rate range test before training: plot it, and record the suggested learning rate in run.json."""

import logging

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.core.console import echo
from src.diagnostics.learning_rate_range_test import HIGHEST, LOWEST, STEPS, draw, range_test
from src.models.base import Model
from src.run_store.plots import save_figure
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


class LearningRateFinder(Callback):
    """Run a range test with a separate model on the run's data. The run itself does not change: it trains with its
    configured learning rate.

    Args:
        folder: the run folder.
        lowest: learning rate of the first step.
        highest: learning rate of the last step.
        steps: optimizer steps of the test.
    """

    def __init__(self, folder: RunFolder, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> None:
        self.folder = folder
        self.lowest, self.highest, self.steps = lowest, highest, steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or "suggested_lr" in self.folder.record:
            return
        assert isinstance(pl_module, Model)
        config = pl_module.training_config
        result = range_test(config, self.lowest, self.highest, self.steps)
        path = save_figure(self.folder.path, "learning_rate", draw(result, config), trainer.loggers)
        self.folder.update(suggested_lr=result.suggestion)
        text = "the loss never falls" if result.suggestion is None else f"suggested optimizer.lr={result.suggestion:g}"
        log.info("range test: %s, see %s", text, path)
        echo(f"range test: {text}, see {path}\n", flush=True)
