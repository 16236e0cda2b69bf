"""Share of the last step's gradient that reaches earlier steps (textbook, Vanishing and Exploding Gradient Problem)."""

import math
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from src.core.console import display_path
from src.core.errors import UserError
from src.core.escape import mathtext
from src.core.tables import show
from src.diagnostics.gradient_through_time import gradient_by_lag
from src.models.recurrent import Recurrent
from src.run_store.plots import save_figure
from src.run_store.run_folder import RunFolder
from src.run_store.sweep_runs import in_sweep, section_of, sweep_runs_with
from src.run_store.tables import show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY = "gradient_through_time"
LAGS = (1, 5, 10, 20, 50, 100, 200)
"""Lags in the table."""


class GradientThroughTime(Callback):
    """Measure the gradient by lag before and after training and plot both; in a sweep, plot all runs together.

    A run writes plots/gradient_through_time.png and the values to run.json; every run of a sweep updates
    plots/gradient_through_time.png and gradient_through_time.md in the sweep folder when it ends.

    Args:
        folder: the run folder.
        examples: number of sequences of the validation split to average over.

    Raises:
        UserError: if the model is not a unidirectional recurrent network.
    """

    def __init__(self, folder: RunFolder, examples: int = 16) -> None:
        self.folder = folder
        self.examples = examples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, Recurrent) or pl_module.directions == 2:
            raise UserError(
                "callbacks=gradient_through_time is for model=rnn, lstm, gru with model.bidirectional=false"
            )
        if KEY not in self.folder.record:  # a resumed run has it already
            self._measure(trainer, pl_module, "before")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Recurrent)
        self._measure(trainer, pl_module, "after")
        if not trainer.is_global_zero:
            return
        name = pl_module.training_config.model.name
        save_figure(self.folder.path, KEY, _figure({name: self.folder.record[KEY]}), trainer.loggers)
        if in_sweep(self.folder, pl_module.training_config):
            compare(self.folder)

    def _measure(self, trainer: L.Trainer, model: Recurrent, when: str) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = datamodule.examples("val", self.examples)
        batch = type(batch)(*(tensor.to(model.device) for tensor in batch))
        was_training = model.training
        model.eval()
        with (
            torch.enable_grad(),
            torch.backends.cudnn.flags(enabled=False),
        ):  # cuDNN has no backward pass in evaluation mode
            norms = gradient_by_lag(model, batch).detach().tolist()
        model.train(was_training)
        if trainer.is_global_zero:
            self.folder.update(**{KEY: self.folder.record.get(KEY, {}) | {when: norms}})


def compare(folder: RunFolder) -> None:
    """Plot the runs of a sweep together, and print and write a table of the share of the gradient at each lag.

    Args:
        folder: folder of one of the runs.
    """
    runs = [
        run for run in sweep_runs_with(folder, KEY) if all(run.record[KEY].get(when) for when in ("before", "after"))
    ]
    if not runs:
        return
    names = [section_of(run, "model")["name"] for run in runs]
    labels = [name if names.count(name) == 1 else run.path.name for name, run in zip(names, runs, strict=True)]
    norms_by_run = {label: run.record[KEY] for label, run in zip(labels, runs, strict=True)}
    longest = max(len(norms["after"]) for norms in norms_by_run.values())
    rows = []
    for label, norms in norms_by_run.items():
        for when in ("before", "after"):
            shares = _shares(norms[when])
            cells = {f"lag {k}": f"{shares[k]:.2g}" if k < len(shares) else "-" for k in LAGS if k < longest}
            rows.append({"run": label, "training": when, **cells})
    sweep = folder.path.parent
    show_table(sweep, KEY, "share of the last step's gradient that reaches the state k steps before", rows)
    show(f"plot: {display_path(save_figure(sweep, KEY, _figure(norms_by_run)))}")


def _shares(norms: list[float]) -> list[float]:
    return [norm / norms[0] if norms[0] else 0.0 for norm in norms]


def _figure(norms_by_run: dict[str, dict[str, list[float]]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    axes: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    for axis, when in zip(axes, ("before", "after"), strict=True):
        for name, norms in norms_by_run.items():
            axis.plot([share or math.nan for share in _shares(norms[when])], label=mathtext(name))  # 0 has no logarithm
        axis.set(yscale="log", xlabel="lag k", title=f"{when} training")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("‖∂L/∂s(T-k)‖ : ‖∂L/∂s(T)‖")
    return figure
