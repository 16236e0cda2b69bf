"""Learning-rate range test: the loss while the learning rate grows from step to step, and a suggested learning rate."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.seed import isolate_rng

from src.config.schema.run import Config
from src.core.errors import UserError
from src.core.escape import mathtext
from src.models.base import Model
from src.regularization.example_augmentation import example_augmentation
from src.run_store import train_log
from src.training.build import build_data, build_model, build_trainer
from src.training.inference import Translator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST, HIGHEST = 1e-6, 10.0
"""Learning rates of the first and the last step: the documented range, extended by two decades on either side."""
STEPS = 200
"""Number of optimizer steps, unless the loss explodes earlier."""
SKIPPED_STEPS = 10
"""Steps at the beginning that are ignored, as in Lightning's finder."""


@dataclass(frozen=True)
class RangeTest:
    """Result of a range test.

    Args:
        rates: learning rate of each step.
        losses: loss after each step, smoothed by Lightning.
        suggestion: learning rate where the loss falls fastest per decade; None if it never falls. Lightning's own
            suggestion uses the slope by the rate itself, which is steepest at the smallest rates.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float | None


@contextmanager
def _silent() -> Iterator[None]:
    """Discard standard error, where Lightning draws its own progress bar."""
    with open(os.devnull, "w") as devnull, redirect_stderr(devnull):
        yield


class _RangeTestModel(L.LightningModule):
    """Run the training steps of a model without its metrics and checks, as the loss explodes at the end of the test."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def configure_optimizers(self) -> Any:
        return self.model.configure_optimizers()

    def on_train_epoch_start(self) -> None:
        self.model.on_train_epoch_start()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.model.training_step(batch, batch_idx)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


def range_test(config: Config, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> RangeTest:
    """Train a separate model with a learning rate that grows at every step (Smith 2017), with Lightning's finder. The
    states of the random number generators are restored.

    Args:
        config: a validated config; its schedule is not used.
        lowest: learning rate of the first step.
        highest: learning rate of the last step.
        steps: optimizer steps; the test ends earlier when the loss is four times the smallest one.
    """
    settings = config.trainer.model_copy(
        update={
            "devices": 1,
            "strategy": "auto",
            "max_epochs": steps * 1000,
            "max_steps": -1,
            "max_time": None,
            "profiler": None,
            "detect_anomaly": False,
        }
    )
    with isolate_rng(), TemporaryDirectory() as scratch, train_log.log_to(None), _silent():
        L.seed_everything(config.seed, workers=True, verbose=False)
        datamodule = build_data(config)
        datamodule.augmentation = example_augmentation(config.regularization, datamodule.raw, Translator)
        datamodule.prepare_data()
        datamodule.setup()
        model = build_model(config, datamodule.spec)
        # Lightning saves the weights in the scratch folder and restores them after the test.
        trainer = build_trainer(config.model_copy(update={"trainer": settings}), default_root_dir=scratch)
        finder = Tuner(trainer).lr_find(
            _RangeTestModel(model),
            train_dataloaders=datamodule.train_dataloader(),
            min_lr=lowest,
            max_lr=highest,
            num_training=steps,
            update_attr=False,
        )
    assert finder is not None
    rates, losses = finder.results["lr"], finder.results["loss"]
    return RangeTest(rates, losses, _suggestion(rates, losses))


def _suggestion(rates: list[float], losses: list[float]) -> float | None:
    """Return the rate, to two digits, where the loss falls fastest per decade; None if it never falls.

    The first steps, whose smoothed loss is not yet meaningful, and the last, which explodes, are ignored.
    """
    points = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    points = points[SKIPPED_STEPS:-1]
    if len(points) < 2:
        return None
    slopes = np.gradient([loss for _, loss in points], [log_rate for log_rate, _ in points])
    steepest = int(slopes.argmin())
    return float(f"{10 ** points[steepest][0]:.2g}") if slopes[steepest] < 0 else None


def range_test_figure(config: Config) -> "Figure":
    """Run a range test, and plot the loss at every learning rate with the suggested rate.

    Args:
        config: a validated config.

    Raises:
        UserError: if the loss explodes in the first steps, so that there is nothing to plot.
    """
    result = range_test(config)
    if len(result.rates) <= SKIPPED_STEPS:
        steps, rate = len(result.rates), result.rates[-1]
        raise UserError(f"the loss exploded after {steps} steps, at a learning rate of {rate:.1e}")
    return draw(result, config)


def draw(result: RangeTest, config: Config) -> "Figure":
    """Plot a range test.

    Args:
        result: the range test.
        config: config of the run, whose learning rate is plotted for comparison.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    conclusion = (
        "the loss never falls" if result.suggestion is None else f"suggested: optimizer.lr={result.suggestion:g}"
    )
    subject = f"{config.model.name} on {config.datamodule.name}, {config.optimizer.name}"
    figure.suptitle(mathtext(f"range test of {subject}; {conclusion}", 500))
    axes = figure.subplots()
    axes.plot(result.rates[SKIPPED_STEPS:], result.losses[SKIPPED_STEPS:])
    if (configured := getattr(config.optimizer, "lr", None)) is not None:
        axes.axvline(configured, color="0.6", linestyle="--", label=f"configured, {configured:g}")
    if result.suggestion is not None:
        axes.axvline(result.suggestion, color="tab:red", label=f"steepest fall, {result.suggestion:g}")
    axes.set_xscale("log")
    lowest, first = min(result.losses), result.losses[min(SKIPPED_STEPS, len(result.losses) - 1)]
    axes.set_ylim(lowest - 0.05 * (first - lowest), first + 0.5 * (first - lowest))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
