"""Lightweight training loop: Lightning's semantics without its per-step bookkeeping of about half a millisecond.

Tested with Lightning 2.6. Where a private name of Lightning is missing, or in stock mode, Lightning's own loop trains.
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from src.compat.lightning_names import DataFetcher, EvaluationLoop, TrainingEpochLoop, loop_problem
from src.compat.stock import log_fallback

log = logging.getLogger(__name__)

TRAINING_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
VALIDATION_HOOKS = ("on_validation_batch_start", "on_validation_batch_end")
"""Hooks of callbacks within a step, in this order."""

MODEL_HOOKS = (
    *TRAINING_HOOKS,
    *VALIDATION_HOOKS,
    "training_step",
    "backward",
    "optimizer_zero_grad",
    "optimizer_step",
    "configure_gradient_clipping",
)
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks of a model or datamodule that change a step; if one is overridden, Lightning's own step is taken."""


def install_training_loop(trainer: L.Trainer, max_steps: int, base: type[L.LightningModule], fast: bool = True) -> None:
    """Replace the loop of a trainer over the batches of an epoch; where that is impossible, log it and do nothing.

    Args:
        trainer, max_steps, base, fast: see `FastTrainingEpochLoop`.
    """
    if problem := loop_problem(trainer):
        log_fallback("Lightning's own loop trains, and validates the last weights only at the end of an epoch", problem)
        return
    trainer.fit_loop.epoch_loop = FastTrainingEpochLoop(trainer, max_steps, base, fast)


class FastTrainingEpochLoop(TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a faster step where the result is the same.

    Counters, hooks of callbacks, schedules and checkpoints are those of Lightning's own step, which is taken where a run needs
    more of it (`lightning_step_reason`), and for the first step after a resume. The last weights of a run are always
    validated, also where it ends within an epoch (``trainer.max_steps``) or with an epoch without validation
    (``trainer.check_val_every_n_epoch``).

    Args:
        trainer: trainer of the run.
        max_steps: optimizer steps of the run; -1 means all steps of its epochs.
        base: the class whose steps this loop reproduces; any other model takes Lightning's step.
        fast: False takes Lightning's step in any case.
    """

    def __init__(self, trainer: L.Trainer, max_steps: int, base: type[L.LightningModule], fast: bool = True) -> None:
        super().__init__(trainer, max_steps=max_steps)
        if fast:
            self.val_loop = FastEvaluationLoop(
                trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
            )
            self.val_loop.base = base
        self.base = base
        self._fast = fast
        self._logged = False

    def run(self, data_fetcher: DataFetcher) -> None:
        reason = lightning_step_reason(self.trainer, self.base) if self._fast else "trainer.loop=lightning"
        if not self._logged:
            log.info(
                "training loop: %s", f"Lightning's, because of {reason}" if reason else "fast (src/compat/fast_loop.py)"
            )
            self._logged = True
        self._fast_step = _FastStep(self.trainer, TRAINING_HOOKS) if reason is None else None
        super().run(data_fetcher)

    def advance(self, data_fetcher: DataFetcher) -> None:
        """Train on one batch, with an optimizer step after every `accumulate_grad_batches`-th."""
        if self._fast_step is None or self.restarting:
            super().advance(data_fetcher)
            return
        trainer, fast_step, optimizer = self.trainer, self._fast_step, self.trainer.optimizers[0]
        accumulate = trainer.accumulate_grad_batches
        batch, _, _ = next(data_fetcher)
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = fast_step.prepare_batch(self, batch)
        index = self.batch_idx
        is_step = not self._should_accumulate()
        fast_step.call("on_train_batch_start", batch, index)
        self.batch_progress.increment_started()
        loss: Tensor

        @torch.enable_grad()  # optimizers may call it within no_grad, as those of torch do
        def closure() -> Tensor:
            """Compute the loss, and accumulate its gradient."""
            nonlocal loss
            loss = fast_step.step("training_step", batch, index)
            if accumulate > 1:
                loss = loss / accumulate
            if index % accumulate == 0:
                self._zero_grad(fast_step, optimizer)
            fast_step.call("on_before_backward", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            fast_step.call("on_after_backward")
            if is_step:
                fast_step.call("on_before_optimizer_step", optimizer)
                if trainer.gradient_clip_val is not None:
                    fast_step.model.configure_gradient_clipping(
                        optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                    )
            return loss

        if is_step:
            count = self.automatic_optimization.optim_progress.optimizer.step
            count.increment_ready()
            optimizer.step(closure)  # type: ignore[arg-type]
            count.increment_completed()
        else:
            closure()
        self.batch_progress.increment_processed()
        if trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        fast_step.call("on_train_batch_end", {"loss": loss.detach()}, batch, index)
        if self._results:
            trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        if self._results:
            trainer._logger_connector.update_train_step_metrics()

    def _zero_grad(self, fast_step: "_FastStep", optimizer: Any) -> None:
        count = self.automatic_optimization.optim_progress.optimizer.zero_grad
        count.increment_ready()
        fast_step.call("on_before_zero_grad", optimizer)
        count.increment_started()
        optimizer.zero_grad()
        count.increment_completed()

    def on_advance_end(self, data_fetcher: DataFetcher) -> None:
        """Validate after the last batch of an epoch, and after the last step of all."""
        if (
            self._fast_step is None
            or self._num_ready_batches_reached()
            or self._is_training_done
            or self.trainer.should_stop
        ):
            super().on_advance_end(data_fetcher)
            return
        self._batches_that_stepped += not self._should_accumulate()
        if self.trainer.received_sigterm:
            raise SIGTERMException

    def _should_check_val_fx(self, data_fetcher: DataFetcher) -> bool:
        if super()._should_check_val_fx(data_fetcher):
            return True
        trainer = self.trainer
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        last = self.global_step == self.max_steps or (last_epoch and self._num_ready_batches_reached())
        return last and trainer.enable_validation and not self.restarting


class FastEvaluationLoop(EvaluationLoop):
    """Lightning's loop over the validation batches, with a faster step where the result is the same."""

    base: type[L.LightningModule]
    """See `FastTrainingEpochLoop`."""

    def reset(self) -> None:
        super().reset()
        self._fast_step = (
            _FastStep(self.trainer, VALIDATION_HOOKS)
            if lightning_step_reason(self.trainer, self.base) is None
            else None
        )

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        if self._fast_step is None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
            return
        fast_step, connector = self._fast_step, self.trainer._logger_connector
        batch = fast_step.prepare_batch(self, batch)
        fast_step.call("on_validation_batch_start", batch, batch_idx)
        self.batch_progress.increment_started()
        fast_step.step("validation_step", batch, batch_idx)
        self.batch_progress.increment_processed()
        fast_step.call("on_validation_batch_end", None, batch, batch_idx)
        if self._results:
            connector.on_batch_end()
        self.batch_progress.increment_completed()
        self._has_run = True
        if self._results:
            connector.update_eval_step_metrics(self._seen_batches_per_dataloader[dataloader_idx])
        self._seen_batches_per_dataloader[dataloader_idx] += 1
        if not self.batch_progress.is_last_batch and self.trainer.received_sigterm:
            raise SIGTERMException


class _FastStep:
    """Parts of a run that the faster step needs, looked up once.

    Args:
        trainer: trainer of the run.
        hooks: names of the hooks that callbacks may have in such a step.
    """

    def __init__(self, trainer: L.Trainer, hooks: tuple[str, ...]) -> None:
        self.model: Any = trainer.lightning_module
        double = isinstance(trainer.precision_plugin, DoublePrecision)
        self._context: Any = trainer.precision_plugin.forward_context if double else nullcontext
        self._trainer = trainer
        self._double = double
        self._moves = trainer.strategy.root_device.type != "cpu"
        self._hooks = {hook: list(_hooks_of_callbacks(trainer, hook)) for hook in hooks}

    def prepare_batch(self, loop: FastTrainingEpochLoop | FastEvaluationLoop, batch: Any) -> Any:
        """Count a batch, and return it in the precision and on the device of the model."""
        if self._double:
            batch = self._trainer.precision_plugin.convert_input(batch)
        if self._moves:
            batch = self._trainer.strategy.batch_to_device(batch)
        loop.batch_progress.increment_ready()
        connector, results = self._trainer._logger_connector, loop._results
        connector._first_loop_iter = connector._first_loop_iter is None  # read by `log` within the step
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        return batch

    def step(self, name: str, batch: Any, index: int) -> Any:
        """Return what the model's ``training_step`` or ``validation_step`` returns."""
        self.model._current_fx_name = name  # the hook in which `log` is called
        with self._context():
            result = getattr(self.model, name)(batch, index)
        self.model._current_fx_name = None
        return result

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of the callbacks that override it."""
        if not self._hooks[hook]:
            return
        self.model._current_fx_name = hook
        for function in self._hooks[hook]:
            function(self._trainer, self.model, *arguments)
        self.model._current_fx_name = None


def lightning_step_reason(trainer: L.Trainer, base: type[L.LightningModule]) -> str | None:
    """Return the part of a run that needs Lightning's own step; None if the faster step gives the same result."""
    model, datamodule = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(model, base) or not model.automatic_optimization:
        return f"the model {type(model).__name__}"
    for hook in (*MODEL_HOOKS, *TRANSFER_HOOKS):
        if getattr(type(model), hook) is not getattr(base, hook):
            return f"{type(model).__name__}.{hook}"
    for hook in TRANSFER_HOOKS:
        if datamodule is not None and getattr(type(datamodule), hook) is not getattr(L.LightningDataModule, hook):
            return f"{type(datamodule).__name__}.{hook}"
    if type(trainer.strategy) is not SingleDeviceStrategy:
        return f"the strategy {type(trainer.strategy).__name__}"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision):
        return f"trainer.precision={trainer.precision}"
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
        return "trainer.profiler"
    if not hasattr(model, "_current_fx_name"):
        return "LightningModule._current_fx_name, which this version of Lightning lacks"
    return None


def _hooks_of_callbacks(trainer: L.Trainer, hook: str) -> Iterator[Any]:
    """Yield a hook of every callback that overrides it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        function = getattr(callback, hook)
        if getattr(function, "__func__", None) is not getattr(Callback, hook):
            yield function
