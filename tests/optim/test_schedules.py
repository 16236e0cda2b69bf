"""Every schedule, with and without warm-up, against its closed form: the learning rate of each step of a run."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from src import ROOT
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.loaders.in_memory import BatchLoader
from src.models.mlp import MLP

SPEC = DataSpec("regression", "vector", (3,), (1,))
LR, EPOCHS, STEPS = 0.2, 3, 5  # steps per epoch
OPTIONS = sorted(path.stem for path in (ROOT / "conf" / "scheduler").glob("*.yaml"))
WARM_UPS = [0, STEPS, 7]  # none, one that ends with an epoch, one that ends within one


def config_of(*overrides: str) -> Config:
    return _composed(f"optimizer.lr={LR}", f"trainer.max_epochs={EPOCHS}", *overrides)


@cache
def _composed(*overrides: str) -> Config:
    return check(compose(["model=mlp", "datamodule=diabetes", "model.hidden_sizes=[]", "optimizer=sgd", *overrides]))


class Recorder(Callback):
    """Records the learning rate of each optimizer step and the validation losses; raises an error at step `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.fail_at = fail_at

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        if trainer.global_step == self.fail_at:
            raise InterruptedError
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def train(config: Config, recorder: Recorder, folder: Path | None = None, resume: bool = False) -> MLP:
    """Train a model; with a folder, save checkpoints there, and with resume continue from the last one."""
    torch.manual_seed(0)
    model = MLP(SPEC, hidden_sizes=[], training_config=config)
    data = LabelledBatch(torch.randn(4 * STEPS, 3), torch.randn(4 * STEPS, 1))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=config.trainer.max_epochs,
        max_steps=config.trainer.max_steps,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=config.trainer.check_val_every_n_epoch,
        callbacks=[recorder, *([ModelCheckpoint(folder, "epoch", save_last=True)] if folder else [])],
        enable_checkpointing=folder is not None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    size = 4 // config.trainer.accumulate_grad_batches
    loader = BatchLoader(data, size)
    checkpoint = folder / "last.ckpt" if folder and resume else None
    trainer.fit(model, loader, BatchLoader(data, size), ckpt_path=checkpoint)
    return model


def closed_form(name: str, unit: str, warmup: int, epochs: int = EPOCHS) -> Callable[[int], float]:
    """Return lr(t) of an option, t = 1, 2, …; k counts the steps or epochs since the warm-up."""
    unit_steps = {"step": 1, "epoch": STEPS}[unit]
    total = epochs * STEPS

    def after_warmup(k: int) -> float:
        match name:
            case "none":
                return LR
            case "step":
                return LR * 0.1 ** (k // 2)  # step_size=2
            case "exponential":
                return LR * 0.95**k
            case "cosine":
                length = total - warmup if unit == "step" else epochs - warmup // STEPS
                return LR * (1 + math.cos(math.pi * k / length)) / 2
            case "cosine_restarts":  # T_0=1, T_mult=2
                cycle = 1
                while k >= cycle:
                    k, cycle = k - cycle, 2 * cycle
                return LR * (1 + math.cos(math.pi * k / cycle)) / 2
        raise AssertionError(f"this test has no closed form of {name}")

    def rate(t: int) -> float:
        if name == "inverse_sqrt":
            return LR * min(t**-0.5 * warmup**0.5, t / warmup)
        if t <= warmup:
            return LR * t / warmup
        return after_warmup((t - 1) // unit_steps - warmup // unit_steps)

    return rate


def plateau_form(
    losses: list[float], warmup: int, patience: int, factor: float, cooldown: int, threshold: float
) -> list[float]:
    """Return lr(t) as torch documents ReduceLROnPlateau, for the losses after each epoch."""
    rates, lr, best, bad, cooling = [], LR, math.inf, 0, 0
    for epoch, loss in enumerate(losses):
        steps = range(epoch * STEPS + 1, (epoch + 1) * STEPS + 1)
        rates += [lr if t > warmup else LR * t / warmup for t in steps]
        if steps[-1] <= warmup:
            continue
        best, bad = (loss, 0) if loss < best * (1 - threshold) else (best, bad + 1)
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            lr, cooling, bad = lr * factor, cooldown, 0
    return rates


SETTINGS = {"step": ["scheduler.step_size=2"], "cosine_restarts": ["scheduler.T_0=1", "scheduler.T_mult=2"]}
REQUIREMENTS = {"none": "S1", "step": "S2", "exponential": "S4", "cosine": "S5", "cosine_restarts": "S6"}
CASES = [
    pytest.param(name, unit, warmup, marks=[pytest.mark.req(REQUIREMENTS[name]), pytest.mark.req("S8")])
    for name in OPTIONS
    if name not in ("plateau", "inverse_sqrt")
    for unit in ("step", "epoch")
    for warmup in WARM_UPS
] + [pytest.param("inverse_sqrt", "step", 7, marks=pytest.mark.req("S7"))]


def scheduled(name: str, unit: str, warmup: int, *overrides: str) -> Config:
    config = config_of(f"scheduler={name}", *SETTINGS.get(name, []), *overrides)
    changed = config.scheduler.model_copy(update={"interval": unit, "warmup_steps": warmup})
    return config.model_copy(update={"scheduler": changed})


@pytest.mark.parametrize(("name", "unit", "warmup"), CASES)
def test_each_step_uses_the_closed_form(name: str, unit: str, warmup: int) -> None:
    recorder = Recorder()
    train(scheduled(name, unit, warmup), recorder)
    rate = closed_form(name, unit, warmup)
    assert recorder.rates == pytest.approx([rate(t) for t in range(1, EPOCHS * STEPS + 1)], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "unit", "warmup"), [case for case in CASES if case.values[2] != STEPS])
def test_resumed_run_uses_the_same_rates(name: str, unit: str, warmup: int, tmp_path: Path) -> None:
    config = scheduled(name, unit, warmup)
    whole = train(config, Recorder())
    with pytest.raises(InterruptedError):
        train(config, Recorder(fail_at=STEPS + 2), tmp_path)
    resumed_recorder = Recorder()
    resumed = train(config, resumed_recorder, tmp_path, resume=True)
    rate = closed_form(name, unit, warmup)
    assert resumed_recorder.rates == pytest.approx(
        [rate(t) for t in range(STEPS + 1, EPOCHS * STEPS + 1)], rel=1e-9, abs=1e-12
    )
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.req("S3")
@pytest.mark.parametrize("warmup", WARM_UPS)
def test_plateau_follows_the_metric(warmup: int, tmp_path: Path) -> None:
    overrides = ["scheduler=plateau", f"scheduler.warmup_steps={warmup}", "trainer.max_epochs=14"]
    settings = ["patience=1", "factor=0.5", "cooldown=1", "threshold=0.2"]
    config = config_of(*overrides, *(f"scheduler.{setting}" for setting in settings))
    recorder = Recorder()
    whole = train(config, recorder)
    expected = plateau_form(recorder.losses, warmup, patience=1, factor=0.5, cooldown=1, threshold=0.2)
    assert len(set(expected[warmup:])) >= 3, "the run has several plateaus"
    assert recorder.rates == pytest.approx(expected, rel=1e-12)

    drop = next(t for t in range(warmup + 1, 60) if expected[t] < expected[t - 1])  # immediately after a reduction
    with pytest.raises(InterruptedError):
        train(config, Recorder(fail_at=drop + 2), tmp_path)
    resumed_recorder = Recorder()
    resumed = train(config, resumed_recorder, tmp_path, resume=True)
    assert resumed_recorder.rates == pytest.approx(expected[drop:], rel=1e-12)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.req("S3")
def test_plateau_counts_validations_and_not_epochs() -> None:
    overrides = ["scheduler=plateau", "trainer.max_epochs=12", "trainer.check_val_every_n_epoch=2"]
    config = config_of(*overrides, "scheduler.patience=1", "scheduler.factor=0.5", "scheduler.threshold=0.5")
    recorder = Recorder()
    train(config, recorder)
    halved = next(t for t, rate in enumerate(recorder.rates) if rate < LR)
    assert halved == 6 * STEPS, "the best loss is after 2 epochs, with no improvement after 4 and 6"


@pytest.mark.req("S3")
@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/r2", "max")])
def test_plateau_uses_the_direction_of_its_metric(monitor: str, mode: str) -> None:
    from src.optim.factory import build_optimization

    model = MLP(SPEC, hidden_sizes=[])
    config = config_of("scheduler=plateau", f"monitor={monitor}")
    _, (entry,) = build_optimization(
        model, model.spec.task, config, L.Trainer(logger=False, enable_checkpointing=False)
    )
    assert (entry["monitor"], entry["scheduler"].mode) == (monitor, mode)


@pytest.mark.req("S7")
def test_paper_formula() -> None:
    """d_model^-0.5 · min(t^-0.5, t · w^-1.5), times optimizer.lr."""
    recorder = Recorder()
    train(config_of("scheduler=inverse_sqrt", "scheduler.warmup_steps=7", "scheduler.d_model=512"), recorder)
    expected = [LR * 512**-0.5 * min(t**-0.5, t * 7**-1.5) for t in range(1, EPOCHS * STEPS + 1)]
    assert recorder.rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.req("S5")
@pytest.mark.req("S8")
@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_warm_up_counts_optimizer_steps_when_gradients_accumulate(name: str) -> None:
    recorder = Recorder()
    train(scheduled(name, "step", 7, "trainer.accumulate_grad_batches=2"), recorder)
    rate = closed_form(name, "step", 7)
    assert recorder.rates == pytest.approx([rate(t) for t in range(1, EPOCHS * STEPS + 1)], rel=1e-9, abs=1e-12)


@pytest.mark.req("S5")
@pytest.mark.req("S8")
@pytest.mark.parametrize(
    ("overrides", "first", "length"),
    [
        ([], 0, 8),
        (["scheduler.warmup_steps=7"], 1, 7),  # one epoch
        (["scheduler.warmup_steps=8"], 1, 7),  # ends in the second epoch, which is the first one of the cosine
        (["trainer.max_steps=24"], 0, 4),  # three epochs and three steps
    ],
)
def test_cosine_in_epochs_spans_the_remaining_epochs(overrides: list[str], first: int, length: int) -> None:
    """Twenty batches are seven optimizer steps of three batches, of which the last has two."""
    lengths = ["scheduler.interval=epoch", "trainer.max_epochs=8", "trainer.accumulate_grad_batches=3"]
    config, recorder = config_of("scheduler=cosine", *lengths, *overrides), Recorder()
    train(config, recorder)
    assert len(recorder.rates) == (24 if "max_steps" in str(overrides) else 56)
    expected = [
        LR * (1 + math.cos(math.pi * (t // 7 - first) / length)) / 2
        if t >= config.scheduler.warmup_steps
        else LR * (t + 1) / config.scheduler.warmup_steps
        for t in range(len(recorder.rates))
    ]
    assert recorder.rates == pytest.approx(expected, rel=1e-9, abs=1e-12)


def restarts(length: int, growth: int, floor: float) -> Callable[[int], float]:
    """Return η(k) = η_min + ½(η_max - η_min)(1 + cos(π·T_cur/T_i)) of SGDR, T_i = length · growth^i."""

    def rate(k: int) -> float:
        cycle = length
        while k >= cycle:
            k, cycle = k - cycle, cycle * growth
        return floor + (LR - floor) * (1 + math.cos(math.pi * k / cycle)) / 2

    return rate


LONG_CASES = {
    "cosine_restarts": ("S6", ["T_0=2", "T_mult=1", "eta_min=0.01"], restarts(2, 1, 0.01)),
    "cosine_restarts, growing": ("S6", ["T_0=2", "T_mult=2", "eta_min=0.01"], restarts(2, 2, 0.01)),
    "cosine": ("S5", ["T_max=8", "eta_min=0.01"], lambda k: 0.01 + 0.19 * (1 + math.cos(math.pi * k / 8)) / 2),
    "step": ("S2", ["step_size=3", "gamma=0.5"], lambda k: LR * 0.5 ** (k // 3)),
    "exponential": ("S4", ["gamma=0.7"], lambda k: LR * 0.7**k),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.req(LONG_CASES[name][0])) for name in LONG_CASES]
)
def test_cycles_of_several_epochs_with_resume(case: str, tmp_path: Path) -> None:
    """Eight epochs of seven optimizer steps, each of three batches except the last; the run fails in its fifth epoch, and the
    resumed run continues as an uninterrupted one.
    """
    _, settings, form = LONG_CASES[case]
    overrides = [f"scheduler={case.partition(',')[0]}", *(f"scheduler.{setting}" for setting in settings)]
    lengths = ["scheduler.interval=epoch", "trainer.max_epochs=8", "trainer.accumulate_grad_batches=3"]
    config, steps = config_of(*overrides, *lengths), 7
    recorder = Recorder()
    whole = train(config, recorder)
    expected = [form(t // steps) for t in range(8 * steps)]
    assert recorder.rates == pytest.approx(expected, rel=1e-9)
    with pytest.raises(InterruptedError):
        train(config, Recorder(fail_at=4 * steps + 2), tmp_path)
    resumed_recorder = Recorder()
    resumed = train(config, resumed_recorder, tmp_path, resume=True)
    assert resumed_recorder.rates == pytest.approx(expected[4 * steps :], rel=1e-9)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.req("S5")
def test_cosine_ends_with_max_steps() -> None:
    recorder = Recorder()
    train(config_of("scheduler=cosine", "trainer.max_steps=12"), recorder)
    assert recorder.rates == pytest.approx([LR * (1 + math.cos(math.pi * k / 12)) / 2 for k in range(12)])


@pytest.mark.req("S3")
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (1, 2), (3, 1), (2, 5)])
def test_plateau_follows_the_textbook_algorithm(mode: str, patience: int, cooldown: int) -> None:
    """On a random walk: after more than `patience` values without a relative improvement above `threshold`, the rate is
    multiplied by `factor`, to at least `min_lr`, and the next `cooldown` values do not count.
    """
    from src.optim.factory import build_optimization

    settings = ["factor=0.5", "threshold=0.05", "min_lr=0.001", f"patience={patience}", f"cooldown={cooldown}"]
    monitor = {"min": "val/loss", "max": "val/r2"}[mode]
    config = config_of("scheduler=plateau", f"monitor={monitor}", *(f"scheduler.{setting}" for setting in settings))
    trainer = L.Trainer(logger=False, enable_checkpointing=False)
    (optimizer,), (entry,) = build_optimization(MLP(SPEC, hidden_sizes=[]), SPEC.task, config, trainer)
    walk = torch.randn(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0).mul(0.05).exp()

    lr, best, bad, cooling, reductions = LR, None, 0, 0, 0
    for value in walk.tolist():
        entry["scheduler"].step(value)
        improved = best is None or (value < best * 0.95 if mode == "min" else value > best * 1.05)
        best, bad = (value, 0) if improved else (best, bad + 1)
        if cooling:
            cooling, bad = cooling - 1, 0
        elif bad > patience:
            lr, bad, cooling, reductions = max(lr / 2, 0.001), 0, cooldown, reductions + 1
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-12)
    assert reductions >= 3


@pytest.mark.req("S5")
def test_cosine_run_resumed_with_more_epochs_uses_the_longer_curve(tmp_path: Path) -> None:
    train(config_of("scheduler=cosine"), Recorder(), tmp_path)
    recorder = Recorder()
    train(config_of("scheduler=cosine", f"trainer.max_epochs={2 * EPOCHS}"), recorder, tmp_path, resume=True)
    rate, first = closed_form("cosine", "step", 0, 2 * EPOCHS), EPOCHS * STEPS + 1
    assert recorder.rates[1:] == pytest.approx([rate(t) for t in range(first + 1, 2 * EPOCHS * STEPS + 1)])


def test_warmup_longer_than_the_run_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    train(config_of("scheduler=cosine", "scheduler.warmup_steps=100"), recorder)
    assert recorder.rates == pytest.approx([LR * t / 100 for t in range(1, EPOCHS * STEPS + 1)])
    assert "scheduler.warmup_steps=100" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheduler=plateau", "scheduler.interval=step"], "scheduler.interval=step"),
        (["scheduler=inverse_sqrt", "scheduler.interval=epoch"], "scheduler.interval=epoch"),
        (["scheduler=inverse_sqrt", "scheduler.warmup_steps=0"], "scheduler.warmup_steps"),
        (["scheduler=cosine", "scheduler.eta_min=0.3"], "scheduler.eta_min=0.3 .* above optimizer.lr=0.2"),
        (["scheduler=plateau", "scheduler.min_lr=0.3"], "scheduler.min_lr=0.3 .* above optimizer.lr=0.2"),
    ],
)
def test_invalid_schedule_settings_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(*overrides)


def test_schedule_changes_all_parameter_groups(tmp_path: Path) -> None:
    """Also if biases have a parameter group of their own."""
    from src.optim.factory import build_optimization

    model = MLP(SPEC, hidden_sizes=[4])
    config = config_of("scheduler=exponential", "regularization=[l2,spare_norms_and_biases]")
    (optimizer,), (entry,) = build_optimization(
        model, model.spec.task, config, L.Trainer(logger=False, enable_checkpointing=False)
    )
    optimizer.step()
    entry["scheduler"].step()
    rates: list[float | Tensor] = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.95 * LR] * 2)
