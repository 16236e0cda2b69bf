"""Schedule preview: the plotted learning rates are those of a training run."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback
from PIL import Image

from src import ROOT
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.diagnostics.schedule_preview import schedule_curve, schedule_figure
from src.preview import PREVIEWS, preview
from src.training.experiment import build

OPTIONS = sorted(path.stem for path in (ROOT / "conf" / "scheduler").glob("*.yaml"))
NO_LEARNING = ["optimizer=sgd", "optimizer.lr=1e-9"]  # nothing is learned, so that no metric improves


class Recorder(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def config_of(*overrides: str) -> Config:
    small = ["model.hidden_sizes=[4]", "trainer.accelerator=cpu", "trainer.limit_train_batches=5"]
    return check(
        compose(["datamodule=digits", *small, "trainer.limit_val_batches=1", "trainer.max_epochs=8", *overrides])
    )


def rates_of_run(config: Config) -> list[float]:
    recorder, experiment = Recorder(), build(config)
    experiment.trainer.callbacks.append(recorder)
    experiment.trainer.fit(experiment.model, datamodule=experiment.datamodule)
    return recorder.rates


@pytest.mark.req("S9")
@pytest.mark.parametrize("name", OPTIONS)
def test_the_curve_equals_the_learning_rates_of_a_run(name: str) -> None:
    fast = {
        "step": ["scheduler.step_size=2"],
        "cosine_restarts": ["scheduler.T_0=2"],
        "plateau": ["scheduler.patience=1"],
    }
    overrides = [
        f"scheduler={name}",
        "scheduler.warmup_steps=4",
        "trainer.accumulate_grad_batches=2",
        *fast.get(name, []),
    ]
    config = config_of(*NO_LEARNING, *overrides)
    curve = schedule_curve(config)
    assert curve.rates == rates_of_run(config)
    assert len(curve.rates) == 8 * 3 and curve.steps_per_epoch == 3
    assert len(set(curve.rates)) > 3, "the rate must change"


@pytest.mark.req("S9")
@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler=cosine", "trainer.max_steps=17"],
        ["scheduler=plateau", "scheduler.patience=0", "trainer.check_val_every_n_epoch=2"],
        ["scheduler=plateau", "scheduler.patience=1", "monitor=train/loss"],
        ["scheduler=plateau", "scheduler.patience=1", "monitor=val/accuracy"],
    ],
    ids=" ".join,
)
def test_the_curve_accounts_for_max_steps_validation_interval_and_monitor(overrides: list[str]) -> None:
    config = config_of(*NO_LEARNING, *overrides)
    assert schedule_curve(config).rates == rates_of_run(config)


@pytest.mark.req("S9")
def test_the_curve_accounts_for_swa_lr() -> None:
    """Before averaging, the rates are those of the schedule; afterwards, they are constant (see test_weight_averaging.py)."""
    overrides = ["scheduler=cosine", "regularization=swa", "regularization.swa_start=0.7"]
    plain, averaged = (
        schedule_curve(config_of(*overrides, *more)).rates for more in ([], ["regularization.swa_lr=0.02"])
    )
    assert averaged == plain[: 5 * 5] + [0.02] * (3 * 5)


@pytest.mark.req("S9")
@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy"])
def test_a_metric_that_always_improves_never_lowers_the_rate(monitor: str) -> None:
    config = config_of("scheduler=plateau", "scheduler.patience=0", f"monitor={monitor}")
    assert set(schedule_curve(config, improving=True).rates) == {1e-3}
    assert len(set(schedule_curve(config).rates)) > 2


@pytest.mark.req("S9")
def test_several_processes_have_fewer_steps_per_epoch() -> None:
    one, two = (schedule_curve(config_of("trainer.limit_train_batches=null", *more)) for more in ([], ["trainer=ddp",
        "trainer.accelerator=cpu", "trainer.devices=2"]))  # fmt: skip
    assert two.steps_per_epoch == -(-one.steps_per_epoch // 2)


@pytest.mark.req("S9")
def test_the_figure_shows_every_step_on_two_scales() -> None:
    config = config_of("scheduler=cosine")
    figure = schedule_figure(config)
    rates = schedule_curve(config).rates
    for axes, scale in zip(figure.axes, ("linear", "log"), strict=True):
        (line,) = axes.get_lines()
        assert (axes.get_yscale(), list(line.get_ydata())) == (scale, rates)
        assert list(line.get_xdata()) == list(range(1, 8 * 5 + 1))
    assert "40 steps in 8 epochs of 5" in figure.get_suptitle()
    labels = [line.get_label() for line in schedule_figure(config_of("scheduler=plateau")).axes[0].get_lines()]
    assert labels == ["if val/loss never improves after the first", "if val/loss always improves"]


@pytest.mark.parametrize(
    ("subject", "overrides", "message"),
    [
        ("schedul", [], "Did you mean 'schedule'"),
        ("schedule", ["scheduler=cosin"], "Did you mean 'cosine'"),
        ("schedule", ["optimizer.lr=-1"], "optimizer.lr=-1"),
    ],
)
def test_invalid_arguments_are_rejected(subject: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preview(subject, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("subject", PREVIEWS)
def test_the_command_writes_each_figure(subject: str, command: Callable, tmp_path: Path) -> None:
    changes = ["regularization=augmentation"] if subject == "augmentation" else []
    done = command("src.preview", subject, "model=cnn", "trainer.max_epochs=2", f"paths.outputs={tmp_path}", *changes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "preview" / "plots" / f"{subject}.png")
    with Image.open(done.stdout.splitlines()[-1]) as image:
        assert min(image.size) > 200
    assert list(tmp_path.iterdir()) == [tmp_path / "preview"], "a preview must not create a run"
