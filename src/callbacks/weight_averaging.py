"""Weight averaging over training, which generalises better than the last weights (beyond the textbook).

Both averages build on Lightning's `WeightAveraging`. Training uses the unaveraged weights; validation, and therefore the
monitor, early stopping and best.ckpt, use the average. Test, evaluation and prediction use the weights that were
validated. Stochastic weight averaging starts late in a run. From then on, best.ckpt is the best of the averaged epochs,
even if an earlier epoch was better, and early stopping starts its count again. Only train/loss is measured with the
unaveraged weights. A checkpoint contains both sets of weights, and a resumed run restores both. (Lightning's
`StochasticWeightAveraging` also leaves the average in the model, but only after the last epoch, without validation and
too late for best.ckpt.)
"""

import logging
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.early_stopping import EarlyStopping
from src.optim.schedules import end_schedule, first_averaged_epoch
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Averaging(WeightAveraging):
    """Base class of both averages."""

    off = False
    """Whether its option disables the average; the run then leaves the callback out."""

    @property
    def average(self) -> AveragedModel:
        """The averaged model, with the number of averaged updates; it exists from the start of a fit."""
        return next(value for value in vars(self).values() if isinstance(value, AveragedModel))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # Lightning copied the model before moving it to its device and precision
            trainer.precision_plugin.convert_module(self.average.module)
            self.average.to(trainer.strategy.root_device)
            self.average.n_averaged = (
                self.average.n_averaged.cpu()
            )  # read at every step, which would synchronize with a GPU

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both sets of weights to continue training. A test after training needs only the average, which Lightning
        would replace by the unaveraged weights.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class ExponentialMovingAverage(Averaging):
    """Exponential moving average of the weights (Polyak and Juditsky 1992; the warm-up is TensorFlow's).

    θ̄_1 = θ_1, θ̄_t = d_t θ̄_{t-1} + (1 - d_t) θ_t after every optimizer step, with d_t = min(d, t / (9 + t)): early in
    training, when weights change fast, the decay is smaller. Running statistics of batch normalization are averaged in
    the same way.

    Args:
        decay: d, in [0, 1); 0 disables the average.
    """

    def __init__(self, decay: float) -> None:
        self.off = decay == 0

        def update(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor | int) -> None:
            step = int(self.average.n_averaged) + 1
            get_ema_multi_avg_fn(min(decay, step / (9 + step)))(averages, weights, num_averaged)  # type: ignore[arg-type]

        super().__init__(multi_avg_fn=update, use_buffers=True)


class StochasticWeightAveraging(Averaging):
    """Mean of the weights at the ends of the last epochs (Izmailov et al. 2018). Before averaging starts, it equals the
    weights.

    Running statistics of batch normalization cannot be averaged: they are recomputed for the averaged weights, in one
    pass over the training data without augmentation or mixing.

    Args:
        start: share of trainer.max_epochs after which averaging starts, in [0, 1); None disables it.
        lr: learning rate from then on, in place of the schedule; None keeps the schedule.
        folder: the run folder; its record stores the first epoch that can be the best.
    """

    def __init__(self, start: float | None, lr: float | None = None, folder: RunFolder | None = None) -> None:
        super().__init__(use_buffers=False)
        self.folder = folder
        self.off = start is None
        self.start = start or 0.0
        self.lr = lr
        self._averaged_epoch = -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the learning rate also for a run that is resumed within an epoch, which gets no `on_train_epoch_start`."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.lr is not None and self._has_started(trainer):
            end_schedule(trainer, self.lr)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average before validation, not after the epoch as Lightning does, so that the saved weights are the validated ones."""
        self.on_train_epoch_end(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch <= self._averaged_epoch:  # averaged before validation
            return
        self._averaged_epoch = trainer.current_epoch
        has_started = self._has_started(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        if not has_started:
            self.average.n_averaged.zero_()  # the next update copies again
        elif self.average.n_averaged > 1:
            recompute_batch_norm(self.average, trainer)
        else:
            self._reset_best(trainer)

    def _reset_best(self, trainer: L.Trainer) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.reset_best(trainer)
        for stopping in trainer.early_stopping_callbacks:
            if isinstance(stopping, EarlyStopping):
                stopping.reset_best()
        if self.folder is not None and trainer.is_global_zero:
            self.folder.update(best_since=trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.average.n_averaged == 0:
            log.warning(
                "training ended after epoch %d, before weights were averaged, from %g of %d epochs on: use "
                "regularization.early_stopping_patience=null or a smaller regularization.swa_start",
                trainer.current_epoch,
                self.start,
                trainer.max_epochs,
            )

    def _has_started(self, trainer: L.Trainer) -> bool:
        """Return whether this epoch is averaged; an existing average is continued when a run gets more epochs."""
        assert trainer.max_epochs is not None
        first = first_averaged_epoch(self.start, trainer.max_epochs)
        return bool(self.average.n_averaged > 0) or trainer.current_epoch >= first


class _BatchModel(nn.Module):
    """Call a model with the inputs of a batch, as `update_bn` passes a single argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        return self.model(*batch.inputs)


@torch.no_grad()
def recompute_batch_norm(model: nn.Module, trainer: L.Trainer) -> None:
    """Recompute the running statistics of a model over this epoch's training batches, without augmentation.

    Args:
        model: model that takes the inputs of a batch; without batch normalization, nothing is computed.
        trainer: trainer of the run; with several devices, each reads its share and all get the same statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    loader = datamodule.loader("train", shuffle=datamodule.shuffle)
    loader.set_epoch(trainer.current_epoch)

    def batches() -> Iterator[list[Any]]:
        for index, batch in enumerate(loader):
            if index >= trainer.num_training_batches:
                break
            yield [trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))]

    with trainer.precision_plugin.forward_context():
        update_bn(batches(), _BatchModel(model))
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None
            statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))  # type: ignore[arg-type]
