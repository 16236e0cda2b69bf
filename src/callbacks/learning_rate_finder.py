"""A range test of the learning rate before a run trains, beside it: its picture, and the suggestion in run.json."""

import logging

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.core.console import echo
from src.diagnostics.learning_rate_range_test import HIGHEST, LOWEST, STEPS, draw, range_test
from src.models.base import Model
from src.run_store.plots import save_picture
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


class LearningRateFinder(Callback):
    """Tests a model of its own on the run's data, and leaves the run as it is: it trains with its own learning rate.

    Args:
        folder: the run's.
        lowest, highest: learning rates of the first and the last step.
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
        found = range_test(config, self.lowest, self.highest, self.steps)
        path = save_picture(self.folder.path, "learning_rate", draw(found, config), trainer.loggers)
        self.folder.update(suggested_lr=found.suggestion)
        said = "the loss never falls" if found.suggestion is None else f"suggested optimizer.lr={found.suggestion:g}"
        log.info("range test: %s, see %s", said, path)
        echo(f"range test: {said}, see {path}\n", flush=True)
