"""The learning-rate range test: the loss while the rate grows from step to step, and the rate that it suggests."""

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
"""Learning rates of the first and the last step: the documented range, and two decades on either side."""
SKIPPED = 10
"""Steps at the beginning that are not looked at, as in Lightning's finder."""
STEPS = 200
"""Optimizer steps between them, unless the loss has exploded before."""


@dataclass(frozen=True)
class RangeTest:
    """What came out.

    Args:
        rates: the learning rate of each step.
        losses: after each step, smoothed as Lightning does.
        suggestion: where the loss falls fastest from decade to decade of the rate; None where it never falls. Lightning's
            own looks at the slope by the rate itself, which is steepest at the very smallest rates.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float | None


@contextmanager
def _silent() -> Iterator[None]:
    """Lightning draws a bar of its own."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


class _Rehearsal(L.LightningModule):
    """A model that takes its training steps and measures nothing: its loss is meant to explode in the end."""

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
    """Train a model of its own for some steps with a learning rate that grows from each to the next (Smith 2017), with
    Lightning's finder. Random numbers are as before when it returns.

    Args:
        config: a checked config; its schedule does not count.
        lowest, highest: the first and the last learning rate.
        steps: optimizer steps; fewer are taken where the loss becomes four times the smallest.
    """
    one = {"devices": 1, "strategy": "auto", "max_epochs": steps * 1000, "max_steps": -1, "max_time": None}
    settings = config.trainer.model_copy(update=one | {"profiler": None, "detect_anomaly": False})
    with isolate_rng(), TemporaryDirectory() as scratch, train_log.log_to(None), _silent():
        L.seed_everything(config.seed, workers=True, verbose=False)
        datamodule = build_data(config)
        datamodule.augmentation = example_augmentation(config.regularization, datamodule.raw, Translator)
        datamodule.prepare_data()
        datamodule.setup()
        model = build_model(config, datamodule.spec)
        # Lightning saves the weights in the scratch folder and restores them after the test.
        trainer = build_trainer(config.model_copy(update={"trainer": settings}), default_root_dir=scratch)
        found = Tuner(trainer).lr_find(
            _Rehearsal(model),
            train_dataloaders=datamodule.train_dataloader(),
            min_lr=lowest,
            max_lr=highest,
            num_training=steps,
            update_attr=False,
        )
    assert found is not None
    rates, losses = found.results["lr"], found.results["loss"]
    return RangeTest(rates, losses, _suggestion(rates, losses))


def _suggestion(rates: list[float], losses: list[float]) -> float | None:
    """Return the rate, to two digits, where the loss falls fastest per decade; the first steps, of which the smoothed loss
    knows little, and the last, which explodes, do not count.
    """
    kept = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    kept = kept[SKIPPED:-1]
    if len(kept) < 2:
        return None
    slopes = np.gradient([loss for _, loss in kept], [rate for rate, _ in kept])
    place = int(slopes.argmin())
    return float(f"{10 ** kept[place][0]:.2g}") if slopes[place] < 0 else None


def range_test_picture(config: Config) -> "Figure":
    """Draw the loss of every learning rate of a range test, with the rate that it suggests.

    Args:
        config: a checked config.

    Raises:
        UserError: if the loss cannot be told, so that there is nothing to draw.
    """
    test = range_test(config)
    if len(test.rates) <= SKIPPED:
        raise UserError(f"the loss exploded after {len(test.rates)} steps, at a learning rate of {test.rates[-1]:.1e}")
    return draw(test, config)


def draw(test: RangeTest, config: Config) -> "Figure":
    """Draw a range test.

    Args:
        test: what came out.
        config: of the run, whose learning rate is drawn for comparison.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    said = "the loss never falls" if test.suggestion is None else f"suggested: optimizer.lr={test.suggestion:g}"
    what = f"{config.model.name} on {config.datamodule.name}, {config.optimizer.name}"
    figure.suptitle(mathtext(f"range test of {what}; {said}", 500))
    panel = figure.subplots()
    panel.plot(test.rates[SKIPPED:], test.losses[SKIPPED:])
    if (configured := getattr(config.optimizer, "lr", None)) is not None:
        panel.axvline(configured, color="0.6", linestyle="--", label=f"configured, {configured:g}")
    if test.suggestion is not None:
        panel.axvline(test.suggestion, color="tab:red", label=f"steepest fall, {test.suggestion:g}")
    panel.set_xscale("log")
    lowest, first = min(test.losses), test.losses[min(SKIPPED, len(test.losses) - 1)]
    panel.set_ylim(lowest - 0.05 * (first - lowest), first + 0.5 * (first - lowest))
    panel.set_xlabel("learning rate")
    panel.set_ylabel("training loss, smoothed")
    panel.grid(alpha=0.3)
    panel.legend()
    return figure
