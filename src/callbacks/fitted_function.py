"""A picture of a fitted function: training points, truth, and what the best weights predict (textbook M7)."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from src.core.errors import UserError
from src.datamodules.synthetic.function import Function
from src.run_store.plots import save_picture
from src.run_store.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FitPicture(Callback):
    """Draws plots/fit.png once the best weights are tested.

    Args:
        folder: the run's.

    Raises:
        UserError: if the data are no function of one variable.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(_data(trainer), Function):
            raise UserError("callbacks=fit draws a function of one variable: it needs datamodule=function")

    @torch.no_grad()
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = _data(trainer)
        assert isinstance(data, Function)
        if not trainer.is_global_zero:
            return
        x = data.split("test").inputs[0].to(next(pl_module.parameters()))
        predicted = pl_module(x)[:, 0].double().cpu().numpy()
        figure = fit_figure(data.points("train"), data.points("test"), predicted)
        save_picture(self.folder.path, "fit", figure, trainer.loggers)


def _data(trainer: L.Trainer) -> object:
    return getattr(trainer, "datamodule", None)


def fit_figure(train: tuple[NDArray, NDArray], truth: tuple[NDArray, NDArray], predicted: NDArray) -> "Figure":
    """Draw training points, truth and prediction.

    Args:
        train, truth: x [N] and y [N].
        predicted: y [N] at the x of the truth.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panel = figure.subplots()
    panel.plot(*train, ".", color="0.6", label="training points")
    panel.plot(*truth, color="black", linewidth=1, label="truth")
    panel.plot(truth[0], predicted, color="tab:red", linewidth=2, label="prediction")
    error = ((predicted - truth[1]) ** 2).mean() ** 0.5
    panel.set_title(f"root of the mean squared distance from the truth: {error:.3g}")
    panel.set_xlabel("x")
    panel.set_ylabel("y")
    panel.legend()
    return figure
