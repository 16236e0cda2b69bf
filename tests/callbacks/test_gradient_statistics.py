"""Logged gradient statistics equal values computed directly, training does not change, and gradients vanish."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from PIL import Image
from torch import nn

from src.callbacks.gradient_statistics import SHARES, GradientStatistics, gradient_figure
from src.core.errors import UserError
from src.run_store.run_folder import RunFolder
from src.training.run import run

MakeOverrides = Callable[..., list[str]]
LONG = ["trainer.max_epochs=3", "trainer.limit_train_batches=4", "trainer.precision=64-true"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """Return the measured steps of metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if any(key.startswith("gradient_norm/") for key in row)}


class Recorder(L.Callback):
    """Record every gradient, weight and output of a run, from which the tests compute the expected statistics."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.outputs: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            module.register_forward_hook(self.hook(name))

    def hook(self, name: str) -> Callable[..., None]:
        def save_output(module: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
            if module.training:
                self.outputs[name] = outputs.detach().clone()

        return save_output

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        named = list(pl_module.named_parameters())
        self.steps.append(
            {
                "gradients": {name: p.grad.clone() for name, p in named if p.grad is not None},
                "before": {name: p.detach().clone() for name, p in named},
            }
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if self.steps and len(self.steps) == trainer.global_step and "after" not in self.steps[-1]:
            self.steps[-1]["after"] = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
            self.steps[-1]["outputs"], self.outputs = self.outputs, {}


def run_recorded(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[dict[str, Any]]]:
    from src.training import experiment

    original, recorder = experiment.build_callbacks, Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build_callbacks", lambda *args: [recorder, *original(*args)])
        folder = run(overrides, verbose=False).folder
    return folder, recorder.steps


@pytest.mark.req("M6")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_norms_and_ratios_equal_direct_computation(fast: MakeOverrides, monkeypatch, accumulated: int) -> None:
    overrides = fast(
        "callbacks=gradients",
        "callbacks.gradients.every_n_steps=2",
        "regularization=gradient_clipping",
        "regularization.gradient_clip_norm=0.01",
        f"trainer.accumulate_grad_batches={accumulated}",
        *LONG,
    )
    folder, steps = run_recorded(overrides, monkeypatch)
    rows = logged(folder)
    assert list(rows) == list(range(0, len(steps), 2)) and len(steps) == 12 / accumulated
    for number, row in rows.items():
        step = steps[number]
        for layer in ("layers.1", "layers.3", "layers.5"):
            gradient, before, after = (step[key][f"{layer}.weight"] for key in ("gradients", "before", "after"))
            assert row[f"gradient_norm/{layer}"] == pytest.approx(gradient.square().sum().sqrt().item(), rel=1e-12)
            ratio = (after - before).square().sum().sqrt() / before.square().sum().sqrt()
            assert row[f"update_ratio/{layer}"] == pytest.approx(ratio.item(), rel=1e-9)
        assert not any("bias" in key for key in row)


@pytest.mark.req("M6")
@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        (
            ["model.activation=tanh", "datamodule=breast_cancer", "optimizer.lr=0.3"],
            {f"saturated/layers.{n}": (f"layers.{n}", lambda a: (a.abs() > 0.98).double().mean()) for n in (2, 4)},
        ),
        (
            ["model.activation=sigmoid", "model=mlp_scratch", "optimizer.lr=3"],
            {
                f"saturated/layers.{n}": (f"layers.{n}", lambda a: ((a < 0.01) | (a > 0.99)).double().mean())
                for n in (2, 4)
            },
        ),
        (
            ["model=cnn", "optimizer=sgd", "optimizer.lr=3"],
            {
                "dead/features.0.1": ("features.0.1", lambda a: (a.amax((0, 2, 3)) == 0).double().mean()),
                "dead/head.2": ("head.2", lambda a: (a.amax(0) == 0).double().mean()),
            },
        ),
    ],
    ids=["tanh", "sigmoid", "relu"],
)
def test_shares_equal_direct_counts(fast: MakeOverrides, monkeypatch, overrides: list[str], shares: dict) -> None:
    folder, steps = run_recorded(
        fast("callbacks=gradients", "callbacks.gradients.every_n_steps=1", *overrides, *LONG), monkeypatch
    )
    seen = set()
    for number, row in logged(folder).items():
        for key, (layer, share) in shares.items():
            expected = share(steps[number]["outputs"][layer]).item()
            assert row[key] == pytest.approx(expected, abs=1e-6)
            seen.add(expected)
    assert len(seen) > 2, "the shares must change during the run for the test to be meaningful"


def test_a_dead_unit_is_zero_for_all_examples_and_positions() -> None:
    images = torch.zeros(3, 4, 3, 5)  # the share of active entries differs along each axis
    images[2, 1, 0, 1] = images[2, 3, 1, 1] = 5.0
    vectors = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    over_time = torch.zeros(2, 5, 4)
    over_time[1, 3, 2] = 1.0
    share = SHARES[nn.ReLU][1]
    assert [share(x).item() for x in (images, vectors, over_time)] == pytest.approx([1 / 2, 1 / 3, 3 / 4])


@pytest.mark.req("M6")
@pytest.mark.parametrize("overrides", [["model=cnn", "regularization=[dropout,mixup]"]], ids=str)
def test_the_callback_does_not_change_training(fast: MakeOverrides, overrides: list[str]) -> None:
    overrides = fast(*overrides, "trainer.max_epochs=2", "trainer.limit_train_batches=4")
    plain = run(overrides, verbose=False)
    measured = run([*overrides, "callbacks=gradients", "callbacks.gradients.every_n_steps=1"], verbose=False)
    assert measured.metrics == plain.metrics and len(logged(measured.folder)) == 8
    for name, weight in weights(plain.folder).items():
        assert torch.equal(weight, weights(measured.folder)[name]), name


@pytest.mark.req("M6")
def test_gradients_of_a_sigmoid_network_vanish_within_the_bound_of_the_textbook(
    fast: MakeOverrides, monkeypatch
) -> None:
    """‖∂J/∂W¹‖ ≤ ‖X‖ · ∏_{l=2}^L (‖W^l‖ · 1/4) · ‖∂J/∂Z^L‖, with σ' ≤ 1/4 for each of the L - 1 hidden layers."""
    folder, steps = run_recorded(fast("experiment=vanishing_gradients", *LONG), monkeypatch)
    names = [f"layers.{n}" for n in range(1, 18, 2)]
    row, step = logged(folder)[0], steps[0]
    norms = [row[f"gradient_norm/{name}"] for name in names]
    assert norms == sorted(norms) and norms[0] < 1e-3 * norms[-1]
    x = step["outputs"]["layers.0"]
    bound = x.norm().item() * (2 / len(x)) ** 0.5  # ‖P - Y‖ ≤ √2 an example, so ‖∂J/∂Z^L‖ ≤ √(2m) / m
    for name in names[1:]:
        bound *= 0.25 * torch.linalg.matrix_norm(step["before"][f"{name}.weight"], 2).item()
    assert 0 < norms[0] <= bound < norms[-1], "the bound itself implies that the gradient vanishes"


def test_the_plot_is_drawn_if_the_run_fails(fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = fast("callbacks=gradients", "optimizer=sgd", "optimizer.lr=1e30", "model.activation=relu", *LONG)
    with pytest.raises(FloatingPointError) as failed:
        run(overrides, verbose=False)
    assert "diverged" in str(failed.value)
    (path,) = tmp_path.glob("outputs/runs/*/*/plots/gradients.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size[0] > 500


def test_the_figure_has_a_panel_per_statistic_and_a_curve_per_layer() -> None:
    rows = [
        {"step": 0, "gradient_norm/a": 1.0, "gradient_norm/b": 0.1, "dead/c": 0.5, "time": 1.0},
        {"step": 1, "train/loss": 2.0},
        {"step": 4, "gradient_norm/a": 2.0, "gradient_norm/b": float("nan"), "dead/c": 0.25},
    ]
    figure = gradient_figure(rows)
    assert figure is not None and gradient_figure([rows[1]]) is None
    norms, dead = figure.axes
    assert norms.get_yscale() == "log" and dead.get_yscale() == "linear"
    assert [(line.get_label(), list(line.get_xdata())) for line in norms.lines] == [("a", [0, 4]), ("b", [0, 4])]
    assert list(norms.lines[0].get_ydata()) == [1.0, 2.0] and list(dead.lines[0].get_ydata()) == [0.5, 0.25]


@pytest.mark.parametrize("interval", [0, -3, 2.5, "often"])
def test_an_invalid_interval_is_rejected(tmp_path: Path, interval: Any) -> None:
    with pytest.raises(UserError, match=r"callbacks\.gradients\.every_n_steps"):
        GradientStatistics(RunFolder(tmp_path, {}), interval)


def test_sharded_gradients_are_rejected(tmp_path: Path) -> None:
    trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(UserError, match="each device has only a part"):
        GradientStatistics(RunFolder(tmp_path, {})).setup(trainer, nn.Linear(1, 1), "fit")  # type: ignore[arg-type]
