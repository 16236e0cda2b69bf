"""Averages of the weights over training, which generalise better than the last weights (beyond the textbook).

Both stand on Lightning's `WeightAveraging`: training goes on with its own weights, while validation, and so the monitor,
early stopping and best.ckpt, see the average. What is tested, evaluated and predicted with is thus what was validated.
Stochastic averaging begins late in a run, and whoever asks for it wants the average: best.ckpt is the best of the epochs
since then, also where the weights of an earlier one were better, and early stopping waits for a better one of these.
Only train/loss is measured with the weights in training. A checkpoint keeps both, and a resumed run goes on with both.
(Lightning's `StochasticWeightAveraging` too leaves the average in the model, but after the last epoch, unvalidated and too
late for best.ckpt.)
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
    """What both averages share."""

    off = False
    """Whether its knob says that there is nothing to do; the run then leaves the callback out."""

    @property
    def average(self) -> AveragedModel:
        """The averaged weights, and how many were averaged; there from the start of a fit on."""
        return next(value for value in vars(self).values() if isinstance(value, AveragedModel))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # the model that was copied is moved to its device and precision only later
            trainer.precision_plugin.convert_module(self.average.module)
            self.average.to(trainer.strategy.root_device)
            self.average.n_averaged = self.average.n_averaged.cpu()  # it is read every step, which would wait for a GPU

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both sets of weights back to train on; a test after training wants the average alone, which Lightning
        would replace by the weights in training.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class ExponentialMovingAverage(Averaging):
    """θ̄_1 = θ_1, θ̄_t = d_t θ̄_{t-1} + (1 - d_t) θ_t after every optimizer step, with d_t = min(d, t / (9 + t)): early on,
    when weights change fast, the average forgets fast (Polyak and Juditsky 1992; the warm-up is TensorFlow's).

    Running statistics of batch normalization are averaged in the same way.

    Args:
        decay: d, in [0, 1); 0 is off.
    """

    def __init__(self, decay: float) -> None:
        self.off = decay == 0

        def update(averages: list[Tensor], weights: list[Tensor], averaged: Tensor | int) -> None:
            step = int(self.average.n_averaged) + 1
            get_ema_multi_avg_fn(min(decay, step / (9 + step)))(averages, weights, averaged)  # type: ignore[arg-type]

        super().__init__(multi_avg_fn=update, use_buffers=True)


class StochasticWeightAveraging(Averaging):
    """The mean of the weights at the ends of the last epochs (Izmailov et al. 2018). Until it begins, it is the weights.

    Running statistics of batch normalization do not average: they are measured anew for the averaged weights, in one pass
    over the training data as they are, without augmentation or mixing.

    Args:
        start: share of trainer.max_epochs after which it begins, in [0, 1); None is off.
        lr: the learning rate from then on, in place of the schedule; None keeps the schedule.
        folder: of the run, whose record notes since which epoch the best is looked for.
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
        """The epoch within which a run is resumed does not start again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.lr is not None and self._begun(trainer):
            end_schedule(trainer, self.lr)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average before validation and not after the epoch, as Lightning would: what is saved is what was validated."""
        self.on_train_epoch_end(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch <= self._averaged_epoch:  # validation has averaged it
            return
        self._averaged_epoch = trainer.current_epoch
        begun = self._begun(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        if not begun:
            self.average.n_averaged.zero_()  # the next update copies again
        elif self.average.n_averaged > 1:
            measure_batch_norm(self.average, trainer)
        else:
            self._look_for_the_best_anew(trainer)

    def _look_for_the_best_anew(self, trainer: L.Trainer) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.forget_best(trainer)
        for stopping in trainer.early_stopping_callbacks:
            if isinstance(stopping, EarlyStopping):
                stopping.forget_best()
        if self.folder is not None and trainer.is_global_zero:
            self.folder.update(best_since=trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.average.n_averaged == 0:
            log.warning(
                "training ended after epoch %d, before weights were averaged, from %g of %d epochs on: "
                "regularization.early_stopping_patience=null or a smaller regularization.swa_start lets it begin",
                trainer.current_epoch,
                self.start,
                trainer.max_epochs,
            )

    def _begun(self, trainer: L.Trainer) -> bool:
        """Tell whether this epoch counts; once there is an average, a longer run does not throw it away."""
        assert trainer.max_epochs is not None
        first = first_averaged_epoch(self.start, trainer.max_epochs)
        return bool(self.average.n_averaged > 0) or trainer.current_epoch >= first


class _OfBatch(nn.Module):
    """Reads a whole batch, where `update_bn` hands over one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        return self.model(*batch.inputs)


@torch.no_grad()
def measure_batch_norm(model: nn.Module, trainer: L.Trainer) -> None:
    """Measure the running statistics of a model anew over this epoch's batches of training data, as they are.

    Args:
        model: any, with the inputs of a batch as arguments; one without batch normalization is left alone.
        trainer: of the run; on several devices, each reads its share and all end with the same statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    loader = datamodule.loader("train", shuffle=datamodule.shuffle)
    loader.set_epoch(trainer.current_epoch)

    def batches() -> Iterator[list[Any]]:
        for number, batch in enumerate(loader):
            if number >= trainer.num_training_batches:
                break
            yield [trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))]

    with trainer.precision_plugin.forward_context():
        update_bn(batches(), _OfBatch(model))
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None
            statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))  # type: ignore[arg-type]
