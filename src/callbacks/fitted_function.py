"""Plot of a fitted function: training points, the true function, and the predictions of the best weights (textbook M7)."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from src.core.errors import UserError
from src.datamodules.synthetic.function import Function
from src.run_store.plots import save_figure
from src.run_store.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FittedFunctionPlot(Callback):
    """Draw plots/fit.png after the best weights were tested.

    Args:
        folder: the run folder.

    Raises:
        UserError: if the data are not a function of one variable.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(_datamodule(trainer), Function):
            raise UserError("callbacks=fit plots a function of one variable: it needs datamodule=function")

    @torch.no_grad()
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        datamodule = _datamodule(trainer)
        assert isinstance(datamodule, Function)
        if not trainer.is_global_zero:
            return
        x = datamodule.split("test").inputs[0].to(next(pl_module.parameters()))
        predicted = pl_module(x)[:, 0].double().cpu().numpy()
        figure = fit_figure(datamodule.points("train"), datamodule.points("test"), predicted)
        save_figure(self.folder.path, "fit", figure, trainer.loggers)


def _datamodule(trainer: L.Trainer) -> object:
    return getattr(trainer, "datamodule", None)


def fit_figure(train: tuple[NDArray, NDArray], target: tuple[NDArray, NDArray], predicted: NDArray) -> "Figure":
    """Plot training points, the true function and the predictions.

    Args:
        train: x [N] and y [N] of the training points.
        target: x [M] and y [M] of the true function.
        predicted: y [M] at the x of the target.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*train, ".", color="0.6", label="training points")
    axes.plot(*target, color="black", linewidth=1, label="target")
    axes.plot(target[0], predicted, color="tab:red", linewidth=2, label="prediction")
    error = ((predicted - target[1]) ** 2).mean() ** 0.5
    axes.set_title(f"root mean squared error: {error:.3g}")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.legend()
    return figure
