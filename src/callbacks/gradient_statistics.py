"""Gradients: vanishing and exploding gradients, saturated and dead units, seen layer by layer (textbook M6)."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.escape import mathtext
from src.run_store.plots import save_picture
from src.run_store.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SATURATED = 0.98
"""An output of tanh beyond ±0.98, of sigmoid below 0.01 or above 0.99: a hundredth of the range from its end."""


def _dead(outputs: Tensor) -> Tensor:
    """Return the share of units that are 0 for the whole batch; of images, a unit is a feature map."""
    units = 1 if outputs.dim() == 4 else -1
    return 1 - (outputs > 0).transpose(0, units).flatten(1).any(1).float().mean()


SHARES: dict[type[nn.Module], tuple[str, Callable[[Tensor], Tensor]]] = {
    nn.Tanh: ("saturated", lambda outputs: (outputs.abs() > SATURATED).float().mean()),
    nn.Sigmoid: ("saturated", lambda outputs: ((2 * outputs - 1).abs() > SATURATED).float().mean()),
    nn.ReLU: ("dead", _dead),
}
"""What is measured of an activation's outputs, and how."""

PANELS = {
    "gradient_norm": "‖∂J/∂W‖",
    "update_ratio": "‖ΔW‖ / ‖W‖",
    "saturated": "share of saturated outputs",
    "dead": "share of dead units",
}


class Gradients(Callback):
    """Logs how gradients and activations of each layer fare, and draws their course when training ends.

    The metrics are, for every weight (parameters of two and more dimensions, by name without ``.weight``),
    ``gradient_norm/<name>``, the norm of its gradient before clipping, and ``update_ratio/<name>``, the norm of the step that
    the optimizer made over that of the weight; for tanh and sigmoid ``saturated/<name>``, the share of outputs near an end
    of the range; for relu ``dead/<name>``, the share of units that were 0 for the whole batch. Training is not changed.

    Args:
        folder: the run's; the picture is its plots/gradients.png.
        every_n_steps: optimizer steps from one measurement to the next; the first step is measured.

    Raises:
        UserError: if the interval is no whole number above 0, or where no process has the whole of a gradient.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int = 20) -> None:
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise UserError(f"callbacks.gradients.every_n_steps={every_n_steps}: must be a whole number of 1 or more")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self._hooks: list[Any] = []
        self._shares: dict[str, list[Tensor]] = {}
        self._norms: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError("callbacks=gradients: with trainer=fsdp each device has only a part of every gradient")

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
                self._hooks.append(module.register_forward_hook(_noting(shares, share)))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step % self.every_n_steps or not trainer.is_global_zero:
            return
        gradients = {name: weight.grad for name, weight in _weights(pl_module) if weight.grad is not None}
        self._norms = _norms(gradients)
        self._before = {name: weight.detach().clone() for name, weight in _weights(pl_module) if name in gradients}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unhook()
        if not self._before:  # not measured, or the gradient is still being accumulated
            return
        before = _norms(self._before)
        steps = {name: weight.detach() - self._before[name] for name, weight in _weights(pl_module) if name in before}
        ratios = {name: step / before[name] for name, step in _norms(steps).items()}
        measured = {f"gradient_norm/{name}": norm for name, norm in self._norms.items()}
        measured |= {f"update_ratio/{name}": ratio for name, ratio in ratios.items()}
        measured |= {name: torch.stack(shares).mean() for name, shares in self._shares.items() if shares}
        values = torch.stack([value.double().cpu() for value in measured.values()]).tolist()
        entry = {**dict(zip(measured, values, strict=True)), "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(entry, step=trainer.global_step - 1)
        self._forget()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _forget(self) -> None:
        self._shares, self._norms, self._before = {}, {}, {}

    # ---- the picture ---------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._unhook()
        self._forget()
        self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and (figure := gradients_figure(self.folder.metrics())) is not None:
            save_picture(self.folder.path, "gradients", figure, trainer.loggers)


def _weights(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return (
        (name.removesuffix(".weight"), parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.requires_grad
    )


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.linalg.vector_norm(tensor) for name, tensor in tensors.items()}


def _noting(shares: list[Tensor], share: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        shares.append(share(outputs.detach()))

    return hook


def gradients_figure(rows: Iterable[Mapping[str, Any]]) -> "Figure | None":
    """Draw what `Gradients` logged against the steps, a panel a kind, the first layer dark and the last one bright.

    Args:
        rows: the lines of metrics.jsonl; where a resumed run measured a step again, the later one counts.

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
        named = curves[kind]
        labelled = set(list(named)[:: -(-len(named) // 12)])  # a legend of twelve at most
        for number, (name, points) in enumerate(named.items()):
            colour = colormaps["viridis"](0.9 * number / max(len(named) - 1, 1))
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
