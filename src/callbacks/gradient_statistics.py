"""Gradient statistics: vanishing and exploding gradients, saturated and dead units of each layer (textbook M6)."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.escape import mathtext
from src.run_store.plots import save_figure
from src.run_store.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SATURATED = 0.98
"""Threshold of saturation: outputs of tanh beyond ±0.98, of sigmoid below 0.01 or above 0.99 (1 % of the range)."""


def _dead(outputs: Tensor) -> Tensor:
    """Return the share of units that are 0 for the whole batch; for images, a unit is a feature map."""
    unit_dim = 1 if outputs.dim() == 4 else -1
    return 1 - (outputs > 0).transpose(0, unit_dim).flatten(1).any(1).float().mean()


SHARES: dict[type[nn.Module], tuple[str, Callable[[Tensor], Tensor]]] = {
    nn.Tanh: ("saturated", lambda outputs: (outputs.abs() > SATURATED).float().mean()),
    nn.Sigmoid: ("saturated", lambda outputs: ((2 * outputs - 1).abs() > SATURATED).float().mean()),
    nn.ReLU: ("dead", _dead),
}
"""Statistic of each activation's outputs: its name, and the function that computes it."""

PANELS = {
    "gradient_norm": "‖∂J/∂W‖",
    "update_ratio": "‖ΔW‖ / ‖W‖",
    "saturated": "share of saturated outputs",
    "dead": "share of dead units",
}
MAX_LEGEND_ENTRIES = 12


class GradientStatistics(Callback):
    """Log statistics of the gradients and activations of each layer, and plot them over training when it ends.

    The metrics are, for every weight (parameters with two or more dimensions, by name without ``.weight``),
    ``gradient_norm/<name>``, the norm of its gradient before clipping, and ``update_ratio/<name>``, the norm of the
    optimizer's update divided by the norm of the weight; for tanh and sigmoid ``saturated/<name>``, the share of outputs
    near an end of the range; for ReLU ``dead/<name>``, the share of units that were 0 for the whole batch. Training does
    not change.

    Args:
        folder: the run folder; the plot is plots/gradients.png.
        every_n_steps: optimizer steps between measurements; the first step is measured.

    Raises:
        UserError: if the interval is not a positive integer, or if gradients are sharded over processes.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int = 20) -> None:
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise UserError(f"callbacks.gradients.every_n_steps={every_n_steps}: must be a whole number of 1 or more")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self._hooks: list[Any] = []
        self._shares: dict[str, list[Tensor]] = {}
        self._norms: dict[str, Tensor] = {}
        self._weights_before: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError(
                "callbacks=gradients: with trainer=fsdp each device has only a part of every gradient; use another trainer"
            )

    # ---- one measured step ---------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps or not trainer.is_global_zero:
            return
        for name, module in pl_module.named_modules():
            if type(module) in SHARES:
                kind, share = SHARES[type(module)]
                shares = self._shares.setdefault(f"{kind}/{name}", [])
                self._hooks.append(module.register_forward_hook(_append_statistic(shares, share)))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step % self.every_n_steps or not trainer.is_global_zero:
            return
        gradients = {name: weight.grad for name, weight in _weights(pl_module) if weight.grad is not None}
        self._norms = _norms(gradients)
        self._weights_before = {
            name: weight.detach().clone() for name, weight in _weights(pl_module) if name in gradients
        }

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._remove_hooks()
        if not self._weights_before:  # not a measured step, or gradients are still accumulating
            return
        weight_norms = _norms(self._weights_before)
        updates = {
            name: weight.detach() - self._weights_before[name]
            for name, weight in _weights(pl_module)
            if name in weight_norms
        }
        metrics = {f"gradient_norm/{name}": norm for name, norm in self._norms.items()}
        metrics |= {f"update_ratio/{name}": norm / weight_norms[name] for name, norm in _norms(updates).items()}
        metrics |= {name: torch.stack(shares).mean() for name, shares in self._shares.items() if shares}
        values = torch.stack([value.double().cpu() for value in metrics.values()]).tolist()
        logged = {**dict(zip(metrics, values, strict=True)), "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step - 1)
        self._clear()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _clear(self) -> None:
        self._shares, self._norms, self._weights_before = {}, {}, {}

    # ---- the plot ------------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._plot(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._remove_hooks()
        self._clear()
        self._plot(trainer)

    def _plot(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and (figure := gradient_figure(self.folder.metrics())) is not None:
            save_figure(self.folder.path, "gradients", figure, trainer.loggers)


def _weights(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return (
        (name.removesuffix(".weight"), parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.requires_grad
    )


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.linalg.vector_norm(tensor) for name, tensor in tensors.items()}


def _append_statistic(shares: list[Tensor], share: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        shares.append(share(outputs.detach()))

    return hook


def gradient_figure(rows: Iterable[Mapping[str, Any]]) -> "Figure | None":
    """Plot the logged gradient statistics against the steps, with one panel per statistic, from the first layer (dark) to
    the last (bright).

    Args:
        rows: lines of metrics.jsonl; if a resumed run measured a step twice, the later line is used.

    Returns:
        The figure, or None if nothing was logged.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            kind, _, name = key.partition("/")
            if kind in PANELS:
                curves.setdefault(kind, {}).setdefault(name, {})[row["step"]] = value
    if not curves:
        return None
    kinds = [kind for kind in PANELS if kind in curves]
    figure = Figure(figsize=(9, 2.8 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    for panel, kind in zip(panels, kinds, strict=True):
        layers = curves[kind]
        label_every = math.ceil(len(layers) / MAX_LEGEND_ENTRIES)
        labelled = set(list(layers)[::label_every])
        for index, (name, points) in enumerate(layers.items()):
            colour = colormaps["viridis"](0.9 * index / max(len(layers) - 1, 1))
            steps = sorted(points)
            label = mathtext(name, 60) if name in labelled else None
            panel.plot(steps, [points[step] for step in steps], ".-", color=colour, label=label)
        panel.set_ylabel(PANELS[kind])
        panel.grid(alpha=0.3)
        if kind in ("gradient_norm", "update_ratio"):
            panel.set_yscale("log")
        else:
            panel.set_ylim(-0.03, 1.03)
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    panels[-1].set_xlabel("optimizer step")
    return figure
